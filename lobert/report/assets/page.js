// The page from its data: what it is about, the sections in turn, and what could not be used.

const DATA = JSON.parse(section("data").textContent);

function startAbout(data) {
  section("about").textContent = data.about;
  section("contents").append(...[...document.querySelectorAll("main > section")].map((part) =>
    html("a", { href: `#${part.id}` }, part.querySelector("h2").textContent)));
}

function startNotes(data) {
  const home = section("notes");
  home.append(say(data.about), html("h3", {}, "Devices and versions"),
    html("ul", { class: "plain" }, data.environments.map((line) => html("li", {}, line))));
  home.append(html("h3", {}, "What was left out"), data.skipped.length
    ? html("ul", { class: "plain warning" }, data.skipped.map((line) => html("li", {}, line)))
    : say("Nothing: every record, curve and anatomy under the folder could be read."));
}

for (const start of [startAbout, startPareto, startCurves, startTable, startAnatomy, startNotes]) start(DATA);
