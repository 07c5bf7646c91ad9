// Heat maps, layer by weight: the error in the weights, in their outputs, and what the score loses to one group alone.

const ROLE_NAMES = {
  query: ["query"], key: ["key"], value: ["value"], attention_output: ["attn.", "output"], intermediate: ["FFN", "in"],
  output: ["FFN", "out"], pooler: ["pooler"], word_embeddings: ["embeddings"],
};
const MAPS = [
  { key: "error", title: "Relative error of the weights", says: "0 is untouched, 1 as large as the weights themselves" },
  { key: "output_error", title: "Relative error of their outputs (activations)", says: "0 is untouched, 1 as large as the outputs themselves" },
  { key: "drop", title: "Change of the score where only that group is compressed, in points", says: "the scale is centred on zero: a loss is negative" },
];

function startAnatomy(data) {
  const home = section("anatomy"), maps = html("div", { class: "maps" }), words = html("div", {});
  if (!data.anatomies.length) {
    return home.append(say("No anatomy here. To have what each weight loses, and what that costs: ", "note"),
      command("python train.py stage=anatomy task=… decomp=… decomp.keep=…"));
  }
  let chosen = 0;
  const options = data.anatomies.map((anatomy, index) => [String(index), anatomy.title]);
  const draw = () => drawAnatomy(maps, words, data.anatomies[chosen]);
  home.append(html("div", { class: "controls" }, dropdown("of", options, "0", (value) => { chosen = +value; draw(); })), words, maps);
  whenSized(maps, draw);
}

function drawAnatomy(maps, words, anatomy) {
  words.replaceChildren(say(`Teacher: ${anatomy.metric} ${anatomy.teacher.toFixed(1)}. ${anatomy.examples}`
    + "Weights of one stack are compressed together and share its score. Layer 0 is the first."));
  maps.replaceChildren(...MAPS.map((map) => heatMap(map, anatomy)));
  maps.querySelectorAll("figure").forEach((figure) => paint(figure, anatomy));
}

function heatMap(map, anatomy) {
  const values = anatomy.cells.map((cell) => cell[map.key]).filter((value) => value !== null);
  const range = values.length ? `From ${signed(map, Math.min(...values))} to ${signed(map, Math.max(...values))}; ${map.says}.` : "Not measured.";
  return html("figure", { "data-map": map.key }, html("figcaption", {}, html("strong", {}, map.title), html("br"), range),
    html("div", { class: "chart" }, html("div", { class: "tip", hidden: true })));
}

function paint(figure, anatomy) {
  const map = MAPS.find((one) => one.key === figure.dataset.map), home = figure.querySelector(".chart");
  const width = Math.min(home.clientWidth || 320, 544), left = 74, top = 34, high = 24;
  const wide = (width - left - 4) / Math.max(1, anatomy.columns.length);
  const least = map.key === "drop" ? 1 : 0; // less than a point is noise, and should not look like damage
  const most = Math.max(least, ...anatomy.cells.map((cell) => Math.abs(cell[map.key] ?? 0))) || 1;
  const place = { left, top, wide, high, width }, bottom = top + high * anatomy.rows.length + 8;
  const picture = svg("svg", { viewBox: `0 0 ${width} ${bottom + 34}`, role: "img", "aria-label": `${map.title}: ${anatomy.title}` },
    heads(anatomy, place), anatomy.cells.map((cell) => heatCell(map, cell, anatomy, place, most)), scaleBar(map, most, place, bottom));
  home.prepend(picture);
  pointAt(picture, home, map, anatomy);
}

function heads(anatomy, { left, top, wide, high }) {
  const columns = anatomy.columns.map((role, i) => ROLE_NAMES[role].map((line, j, lines) => svg("text",
    { class: "small", x: left + (i + 0.5) * wide, y: top - 6 - 11 * (lines.length - 1 - j), "text-anchor": "middle" }, line)));
  const rows = anatomy.rows.map((row, i) => svg("text", { class: "small", x: left - 6, y: top + (i + 0.5) * high + 4, "text-anchor": "end" },
    row in ROLE_NAMES ? ROLE_NAMES[row].join(" ") : `layer ${row}`));
  return [...columns.flat(), ...rows];
}

// A weight outside the layers has a row of its own, as wide as all columns.
function heatCell(map, cell, anatomy, { left, top, wide, high }, most) {
  const row = anatomy.rows.indexOf(cell.layer === null ? cell.role : String(cell.layer)), column = anatomy.columns.indexOf(cell.role);
  const size = { x: left + Math.max(column, 0) * wide, width: column < 0 ? wide * Math.max(1, anatomy.columns.length) : wide };
  const value = cell[map.key], y = top + row * high;
  const shade = value === null ? { class: "cell none" } : { class: "cell", style: { fill: tint(map, value, most) } };
  const text = size.width < 30 ? null : svg("text", { class: "small", x: size.x + size.width / 2, y: y + high / 2 + 4, "text-anchor": "middle",
    style: { fill: value !== null && Math.abs(value) / most > 0.55 ? "var(--on-heat)" : "var(--ink)", "pointer-events": "none" } },
  value === null ? "–" : signed(map, value));
  return svg("g", { "data-cell": anatomy.cells.indexOf(cell) }, svg("rect", { ...size, y, height: high, ...shade }), text);
}

function tint(map, value, most) {
  const colour = map.key !== "drop" ? "--heat" : value < 0 ? "--loss" : "--gain";
  return `color-mix(in srgb, var(${colour}) ${((100 * Math.abs(value)) / most).toFixed(1)}%, var(--paper))`;
}

function signed(map, value) {
  if (map.key !== "drop") return value.toFixed(2);
  const text = value.toFixed(1);
  return Number(text) === 0 ? "0.0" : `${value > 0 ? "+" : "−"}${Math.abs(value).toFixed(1)}`;
}

function scaleBar(map, most, { left, width }, bottom) {
  const steps = 21, from = map.key === "drop" ? -most : 0, size = (width - left - 4) / steps;
  const ends = [[from, "start", left], [map.key === "drop" ? 0 : null, "middle", left + (size * steps) / 2], [most, "end", left + size * steps]];
  const bars = Array.from({ length: steps }, (_, i) => svg("rect", { x: left + i * size, y: bottom, width: size + 0.5, height: 8,
    style: { fill: tint(map, from + ((most - from) * i) / (steps - 1), most) } }));
  const labels = ends.filter(([value]) => value !== null).map(([value, anchor, x]) =>
    svg("text", { class: "small", x, y: bottom + 21, "text-anchor": anchor }, signed(map, value)));
  return [...bars, ...labels];
}

// What a cell stands for, and which others share its group.
function pointAt(picture, home, map, anatomy) {
  const tip = home.querySelector(".tip");
  picture.addEventListener("pointermove", (event) => {
    const index = event.target.closest("[data-cell]")?.dataset.cell, cell = anatomy.cells[index];
    picture.querySelectorAll("[data-cell]").forEach((node) => node.firstChild.classList.toggle("near",
      Boolean(cell) && anatomy.cells[node.dataset.cell].group === cell.group));
    tip.hidden = !cell;
    if (!cell) return;
    tip.replaceChildren(...cellWords(cell, anatomy).flatMap((line, i) => (i ? [html("br"), line] : [html("strong", {}, line)])));
    const edge = home.getBoundingClientRect();
    tip.style.left = `${Math.max(0, Math.min(event.clientX - edge.left + 12, home.clientWidth - tip.offsetWidth))}px`;
    tip.style.top = `${event.clientY - edge.top + 16}px`;
  });
  picture.addEventListener("pointerleave", () => {
    tip.hidden = true;
    picture.querySelectorAll(".near").forEach((node) => node.classList.remove("near"));
  });
}

function cellWords(cell, anatomy) {
  const where = cell.layer === null ? cell.role.replace("_", " ") : `${cell.role.replace("_", " ")} of layer ${cell.layer}`;
  return [where, `group ${cell.group}`, `error of the weight ${cell.error.toFixed(3)}`,
    cell.output_error === null ? null : `error of its output ${cell.output_error.toFixed(3)}`,
    cell.drop === null ? null : `alone: ${anatomy.metric} ${(anatomy.teacher + cell.drop).toFixed(1)} (${signed(MAPS[2], cell.drop)} points)`,
    cell.agreement === null ? null : `agrees with the teacher on ${(100 * cell.agreement).toFixed(1)} %`].filter((line) => line !== null);
}
