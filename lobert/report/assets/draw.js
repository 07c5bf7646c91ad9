// Elements, numbers, scales and markers: what every section draws with. Text is always set as text, never as markup.

const SVG = "http://www.w3.org/2000/svg";

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "style") for (const [key, to] of Object.entries(value)) node.style.setProperty(key, to);
    else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  for (const child of children.flat()) if (child !== null && child !== undefined) node.append(child);
  return node;
}

const html = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
const svg = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);
const section = (name) => document.getElementById(name);
const say = (text, kind = "note") => html("p", { class: kind }, text);

// Numbers as people write them: no more digits than tell something.
function number(value) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  if (size >= 1000) return Math.round(value).toLocaleString("en");
  if (size >= 100 || Number.isInteger(value)) return String(+value.toFixed(0));
  if (size >= 10) return String(+value.toFixed(1));
  return size >= 0.001 ? String(+value.toPrecision(2)) : value.toExponential(1);
}

const minus = (text) => text.replace("-", "−");
const spread = (score) => (score[1] === null ? "" : ` ± ${score[1].toFixed(1)}`);
const plural = (count, noun) => `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;
const seeds = (count) => plural(count, "seed");

// A scale maps a domain to pixels; `ticks` are round numbers inside of it.
function linear(low, high, from, to) {
  const span = high - low || 1;
  const scale = (value) => from + ((value - low) / span) * (to - from);
  return Object.assign(scale, { ticks: roundSteps(low, high, 6) });
}

function roundSteps(low, high, most) {
  const rough = (high - low || 1) / most;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].find((factor) => factor * power >= rough) * power;
  const ticks = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) ticks.push(+(i * step).toPrecision(12));
  return ticks;
}

function logarithmic(low, high, from, to) {
  const scale = (value) => from + (Math.log(value / low) / Math.log(high / low || 2)) * (to - from);
  const ticks = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++)
    for (const factor of [1, 2, 5]) ticks.push(factor * 10 ** power);
  const inside = ticks.filter((tick) => tick >= low * 0.999 && tick <= high * 1.001);
  return Object.assign(scale, { ticks: inside.length > 1 ? inside : roundSteps(low, high, 4).filter((t) => t > 0) });
}

function polygon(corners, radius, start, inner = null) {
  const count = inner ? 2 * corners : corners;
  const points = Array.from({ length: count }, (_, i) => {
    const angle = ((start + (360 * i) / count) * Math.PI) / 180;
    const far = inner && i % 2 ? radius * inner : radius;
    return `${(far * Math.cos(angle)).toFixed(2)},${(far * Math.sin(angle)).toFixed(2)}`;
  });
  return `M${points.join("L")}Z`;
}

const MARKERS = {
  circle: (r) => `M${r},0A${r},${r} 0 1 1 ${-r},0A${r},${r} 0 1 1 ${r},0Z`,
  square: (r) => polygon(4, r * 1.25, 45),
  triangle: (r) => polygon(3, r * 1.35, -90),
  diamond: (r) => polygon(4, r * 1.35, 0),
  down: (r) => polygon(3, r * 1.35, 90),
  pentagon: (r) => polygon(5, r * 1.2, -90),
  hexagon: (r) => polygon(6, r * 1.2, 0),
  cross: (r) => polygon(4, r * 1.5, 45, 0.4),
  star: (r) => polygon(5, r * 1.5, -90, 0.45),
};

// A marker in the colour of its series; hollow where there is one seed only.
function marker(series, radius, hollow) {
  const colour = `var(--series-${series.colour})`;
  const style = { fill: hollow ? "var(--paper)" : colour, stroke: hollow ? colour : "var(--paper)" };
  return svg("path", { d: MARKERS[series.marker](radius), style: { ...style, "stroke-width": hollow ? "1.8" : "1" } });
}

// Gridlines, ticks and titles around a plot of `box` {left, right, top, bottom}; the y title stands above, level.
function frame(box, x, y, titles, label = number) {
  const parts = [];
  for (const tick of y.ticks) {
    parts.push(svg("line", { class: "grid", x1: box.left, x2: box.right, y1: y(tick), y2: y(tick) }));
    parts.push(svg("text", { x: box.left - 6, y: y(tick) + 4, "text-anchor": "end" }, minus(label(tick))));
  }
  for (const tick of apart(x, 34)) {
    parts.push(svg("line", { class: "grid", x1: x(tick), x2: x(tick), y1: box.top, y2: box.bottom }));
    parts.push(svg("text", { x: x(tick), y: box.bottom + 17, "text-anchor": "middle" }, number(tick)));
  }
  parts.push(svg("line", { class: "axis", x1: box.left, x2: box.right, y1: box.bottom, y2: box.bottom }));
  if (titles.y) parts.push(svg("text", { class: "title", x: 4, y: 14 }, titles.y));
  if (titles.x)
    parts.push(svg("text", { class: "title", x: (box.left + box.right) / 2, y: box.bottom + 36, "text-anchor": "middle" }, titles.x));
  return parts;
}

// The ticks that leave room for their numbers, from the largest down.
function apart(scale, pixels) {
  const kept = [];
  for (const tick of [...scale.ticks].reverse())
    if (!kept.length || Math.abs(scale(kept[kept.length - 1]) - scale(tick)) >= pixels) kept.push(tick);
  return kept;
}

// A row of buttons of which one is on.
function buttons(name, options, chosen, choose) {
  const list = options.map(([key, text]) =>
    html("button", { type: "button", "data-key": key, "aria-pressed": String(key === chosen) }, text));
  list.forEach((button) => button.addEventListener("click", () => {
    list.forEach((other) => other.setAttribute("aria-pressed", String(other === button)));
    choose(button.dataset.key);
  }));
  return html("div", { class: "choice", role: "group", "aria-label": name }, html("span", {}, name), list);
}

function dropdown(name, options, chosen, choose) {
  const list = options.map(([key, text]) => html("option", { value: key, selected: key === chosen }, text));
  const select = html("select", { onchange: () => choose(select.value) }, list);
  return html("label", { class: "choice" }, html("span", {}, name), select);
}

// Draw now, and again whenever the width changes.
function whenSized(node, draw) {
  let width = 0;
  new ResizeObserver(() => {
    const now = Math.round(node.clientWidth);
    if (now && now !== width) draw((width = now));
  }).observe(node);
}
