// What the chart tells of a run that is pointed at: beside it, and in full below with its command.

// Pointer, finger and keyboard: the nearest point is told beside it and below the chart; a click or Enter holds it.
function listen(picture, marks, parts) {
  let current = null;
  const near = (event) => {
    const edge = picture.getBoundingClientRect(), scale = picture.viewBox.baseVal.width / edge.width;
    const x = (event.clientX - edge.left) * scale, y = (event.clientY - edge.top) * scale;
    const far = (mark) => Math.hypot(mark.at.x - x, mark.at.y - y);
    const nearest = marks.reduce((best, mark) => (best === null || far(mark) < far(best) ? mark : best), null);
    return nearest && far(nearest) < 28 ? nearest : null;
  };
  const show = (mark) => {
    current?.node.classList.remove("near");
    current = mark;
    mark?.node.classList.add("near");
    showTip(parts, picture, mark);
    if (mark && pareto.pinned === null) showDetails(parts, mark.point);
  };
  const pin = (mark) => {
    pareto.pinned = mark && mark.point !== pareto.pinned ? mark.point : null;
    marks.forEach((one) => one.node.classList.toggle("pinned", one.point === pareto.pinned));
    if (mark) showDetails(parts, mark.point);
  };
  picture.addEventListener("pointermove", (event) => show(near(event)));
  picture.addEventListener("pointerleave", () => show(null));
  picture.addEventListener("click", (event) => { const mark = near(event); show(mark); pin(mark); });
  marks.forEach((mark) => mark.node.classList.toggle("pinned", mark.point === pareto.pinned));
  steer(marks, show, pin);
}

// One stop of the tab key for the whole chart; arrows go from point to point, by their place across.
function steer(marks, show, pin) {
  const ordered = [...marks].sort((a, b) => a.at.x - b.at.x || a.at.y - b.at.y);
  ordered.forEach((mark, index) => {
    mark.node.setAttribute("tabindex", index ? "-1" : "0");
    mark.node.addEventListener("focus", () => show(mark));
    mark.node.addEventListener("blur", () => show(null));
    mark.node.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      if (step) move(ordered, index, step);
      else if (event.key === "Enter" || event.key === " ") pin(mark);
      else if (event.key === "Escape") pin(null);
      else return;
      event.preventDefault();
    });
  });
}

function move(ordered, index, step) {
  const next = ordered[Math.min(ordered.length - 1, Math.max(0, index + step))];
  ordered[index].node.setAttribute("tabindex", "-1");
  next.node.setAttribute("tabindex", "0");
  next.node.focus();
}

function showTip({ tip, chart }, picture, mark) {
  tip.hidden = mark === null;
  if (mark === null) return;
  const { point, at } = mark;
  tip.replaceChildren(html("strong", {}, point.title), html("br"), `${scoreText(point)} at ${valueText(point)}`,
    ...(point.note ? [html("br"), point.note] : []));
  const scale = chart.clientWidth / picture.viewBox.baseVal.width;
  const left = Math.max(0, Math.min(at.x * scale + 14, chart.clientWidth - tip.offsetWidth));
  const above = at.y * scale - tip.offsetHeight - 12;
  tip.style.left = `${left}px`;
  tip.style.top = `${above < 0 ? at.y * scale + 14 : above}px`;
}

function showNothing({ details }) {
  details.replaceChildren(html("p", { class: "note" },
    "Point at a run, tap it, or go through them with the arrow keys: its settings, scores and command stand here."));
}

function showDetails({ details }, point) {
  const facts = point.facts.map(([name, value]) => html("div", {}, html("dt", {}, name), html("dd", {}, value)));
  details.replaceChildren(html("h3", {}, `${point.task} · ${point.title}`),
    ...(point.note ? [say(point.note, "warning")] : []), ...point.commands.map(command), ...point.places.map((place) => say(place)),
    html("dl", { class: "facts" }, facts), seedTable(point));
}

function seedTable(point) {
  const rows = point.runs.map((run) => html("tr", {}, html("td", {}, String(run.seed)), html("td", {}, run.score),
    html("td", { class: "name" }, html("code", {}, run.folder))));
  const head = ["seed", "score", "folder"].map((name) => html("th", { class: name === "folder" ? "name" : "", scope: "col" }, name));
  return html("table", {}, html("thead", {}, html("tr", {}, head)), html("tbody", {}, rows));
}

function command(text) {
  const code = html("code", {}, text);
  const button = html("button", { type: "button", onclick: () => copy(text, code, button) }, "Copy");
  return html("div", { class: "command" }, code, button);
}

// The clipboard may be closed to pages from disk; then the text is selected, ready for the copy key.
async function copy(text, code, button) {
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch {
    getSelection().selectAllChildren(code);
    button.textContent = document.execCommand("copy") ? "Copied" : "Selected";
  }
  setTimeout(() => { button.textContent = "Copy"; }, 1500);
}
