// Score against size, multiply-adds and latency: one point per group of runs, one chart per task.

const pareto = { task: null, axis: "encoder", condition: 0, logarithmic: null, hidden: new Set(), pinned: null };

function startPareto(data) {
  const home = section("pareto");
  if (!data.points.length) return home.append(say("No run has a score, so there is nothing to draw."));
  pareto.task = data.tasks[0].name;
  const chart = html("div", { class: "chart" });
  const parts = {
    data, chart, tip: html("div", { class: "tip", hidden: true }), controls: html("div", { class: "controls" }),
    legend: html("div", { class: "legend", role: "group", "aria-label": "Compressions: click one to hide it" }),
    caption: html("div", {}), details: html("div", { class: "details", "aria-live": "polite" }),
  };
  home.append(parts.controls, parts.legend, html("figure", {}, chart), parts.caption, parts.details);
  showNothing(parts);
  whenSized(chart, () => drawPareto(parts));
  drawControls(parts);
}

const taskOf = (parts) => parts.data.tasks.find((task) => task.name === pareto.task);

function drawControls(parts) {
  const { data, controls } = parts;
  const again = (change) => (value) => { change(value); drawControls(parts); drawPareto(parts); };
  const axes = data.axes.map((axis) => [axis.key, axis.short]);
  const names = data.tasks.map((task) => [task.name, task.name]);
  const where = taskOf(parts).conditions.map((index) => [String(index), data.conditions[index]]);
  if (!taskOf(parts).conditions.includes(pareto.condition)) pareto.condition = taskOf(parts).conditions[0] ?? 0;
  controls.replaceChildren(
    ...(names.length > 1 ? [chooseTask(names, again)] : []),
    buttons("across: kept of", axes.slice(0, 3), pareto.axis, again((key) => setAxis(key))),
    buttons("or", axes.slice(3), pareto.axis, again((key) => setAxis(key))),
    buttons("scale", [["log", "log"], ["linear", "linear"]], isLog(parts) ? "log" : "linear",
      again((key) => { pareto.logarithmic = key === "log"; })),
    ...(pareto.axis === "latency" && where.length > 1
      ? [dropdown("measured with", where, String(pareto.condition), again((key) => { pareto.condition = +key; }))] : []),
  );
  drawLegend(parts);
}

function setAxis(key) {
  pareto.axis = key;
  pareto.logarithmic = null;
}

function chooseTask(names, again) {
  const choose = again((name) => { pareto.task = name; pareto.logarithmic = null; pareto.pinned = null; });
  return names.length > 6 ? dropdown("task", names, pareto.task, choose) : buttons("task", names, pareto.task, choose);
}

// The points of the task that have a place on the axis; milliseconds of other conditions have none.
const onAxis = (parts) => parts.data.points.filter((point) => point.task === pareto.task && place(point) !== null);
const visible = (parts) => onAxis(parts).filter((point) => !pareto.hidden.has(point.series));

function place(point) {
  if (pareto.axis === "latency" && point.condition !== pareto.condition) return null;
  return point.x[pareto.axis] ?? null;
}

function teacherPlace(teacher) {
  return (pareto.axis === "latency" ? teacher.milliseconds[pareto.condition] : teacher.x[pareto.axis]) ?? null;
}

function isLog(parts) {
  if (pareto.logarithmic !== null) return pareto.logarithmic;
  const values = allPlaces(parts);
  return values.length > 0 && Math.min(...values) > 0 && Math.max(...values) > 5 * Math.min(...values);
}

function allPlaces(parts) {
  return [...onAxis(parts).map(place), ...taskOf(parts).teachers.map(teacherPlace)].filter((value) => value !== null);
}

function drawLegend(parts) {
  const shown = new Set(parts.data.points.filter((p) => p.task === pareto.task).map((point) => point.series));
  const items = [...shown].sort((a, b) => a - b).map((index) => legendButton(parts, index));
  parts.legend.replaceChildren(...items, key(svg("path", { class: "front", d: "M1,12H11V4H21" }), "front"),
    key(svg("path", { class: "teacher", d: "M0,8H22" }), "teacher"));
}

const key = (mark, text) => html("span", { class: "key" }, svg("svg", { viewBox: "0 0 22 16", "aria-hidden": "true" }, mark), text);

function legendButton(parts, index) {
  const series = parts.data.series[index];
  const mark = svg("g", { transform: "translate(11,8)" }, marker(series, 5, false));
  const toggle = () => {
    if (!pareto.hidden.delete(index)) pareto.hidden.add(index);
    button.setAttribute("aria-pressed", String(!pareto.hidden.has(index)));
    drawPareto(parts);
  };
  const button = html("button", { type: "button", "aria-pressed": String(!pareto.hidden.has(index)), onclick: toggle },
    svg("svg", { viewBox: "0 0 22 16", "aria-hidden": "true" }, mark), series.name);
  return button;
}

function drawPareto(parts) {
  const { chart, data } = parts;
  const width = Math.max(chart.clientWidth, 260), height = Math.min(460, Math.max(300, width * 0.55));
  const box = { left: 44, right: width - 14, top: 30, bottom: height - 46 };
  const points = visible(parts), task = taskOf(parts), axis = data.axes.find((one) => one.key === pareto.axis);
  const x = across(allPlaces(parts), box, isLog(parts)), y = upwards(onAxis(parts), task.teachers, box);
  const title = `${axis.title}, ${axis.unit}${isLog(parts) ? " (log scale)" : ""}`;
  const picture = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": summary(points, task, title) },
    frame(box, x, y, { x: title, y: `${task.metric} on dev, points` }));
  picture.append(...frontLine(points, x, y), ...chains(points, data, x, y), ...teacherMarks(task, x, y, box));
  const marks = points.map((point) => pointMark(point, data.series[point.series], x, y));
  picture.append(...marks.map((mark) => mark.node));
  chart.replaceChildren(picture, parts.tip);
  listen(picture, marks, parts);
  caption(parts, points);
}

function across(values, box, log) {
  const low = Math.min(...values, Infinity), high = Math.max(...values, -Infinity);
  if (!values.length) return linear(0, 1, box.left, box.right);
  return log ? logarithmic(low / 1.15, high * 1.1, box.left, box.right) : linear(0, high * 1.05, box.left, box.right);
}

function upwards(points, teachers, box) {
  const values = points.flatMap(({ score: [mean, deviation] }) => [mean - (deviation ?? 0), mean + (deviation ?? 0)]);
  values.push(...teachers.map((teacher) => teacher.score));
  const low = Math.min(...values), high = Math.max(...values), margin = Math.max((high - low) * 0.08, 0.5);
  return values.length ? linear(low - margin, high + margin, box.bottom, box.top) : linear(0, 100, box.bottom, box.top);
}

// The points that no other beats, as a stair: at any cost, the best score at that cost or less.
function frontOf(points) {
  const sorted = [...points].sort((a, b) => place(a) - place(b) || b.score[0] - a.score[0]);
  let best = -Infinity;
  return sorted.filter((point) => point.score[0] > best && ((best = point.score[0]), true));
}

function frontLine(points, x, y) {
  const stair = frontOf(points).map((p, i) => (i ? `H${x(place(p))}V${y(p.score[0])}` : `M${x(place(p))},${y(p.score[0])}`));
  return stair.length > 1 ? [svg("path", { class: "front", d: stair.join("") })] : [];
}

function chains(points, data, x, y) {
  const lines = new Map();
  for (const point of points) lines.set(point.chain, [...(lines.get(point.chain) ?? []), point]);
  return [...lines.values()].filter((line) => line.length > 1).map((line) => {
    const ordered = line.sort((a, b) => place(a) - place(b));
    const path = `M${ordered.map((point) => `${x(place(point))},${y(point.score[0])}`).join("L")}`;
    return svg("path", { class: "chain", d: path, style: { stroke: `var(--series-${data.series[line[0].series].colour})` } });
  });
}

function teacherMarks(task, x, y, box) {
  const several = task.teachers.length > 1;
  return task.teachers.flatMap((teacher) => {
    const height = y(teacher.score), where = teacherPlace(teacher);
    const name = several ? `teacher ${teacher.encoder}` : "teacher";
    const line = svg("line", { class: "teacher", x1: box.left, x2: box.right, y1: height, y2: height });
    const text = svg("text", { class: "teacher-name", x: box.left + 5, y: height - 5 }, `${name} ${teacher.score.toFixed(1)}`);
    const star = where === null ? null : svg("path", { class: "star", d: MARKERS.star(6), transform: `translate(${x(where)},${height})` });
    return [line, text, star].filter((part) => part !== null);
  });
}

function pointMark(point, series, x, y) {
  const at = { x: x(place(point)), y: y(point.score[0]) }, [mean, deviation, count] = point.score;
  const node = svg("g", { class: "point", transform: `translate(${at.x},${at.y})`, role: "button", tabindex: "-1",
    "data-series": series.name, "aria-label": spoken(point) });
  if (deviation) {
    const up = y(mean + deviation) - at.y, down = y(mean - deviation) - at.y;
    node.append(svg("path", { class: "whisker", d: `M0,${up}V${down}M-4,${up}H4M-4,${down}H4`,
      style: { stroke: `var(--series-${series.colour})` } }));
  }
  node.append(marker(series, 5, count === 1), svg("circle", { class: "ring", r: 10 }));
  return { node, point, at };
}

const valueText = (point) => `${number(place(point))} ${DATA.axes.find((axis) => axis.key === pareto.axis).unit}`;
const scoreText = (point) => `${point.score[0].toFixed(1)}${spread(point.score)} (${seeds(point.score[2])})`;
const spoken = (point) => `${point.title}: ${scoreText(point)} at ${valueText(point)}`;

function summary(points, task, title) {
  const name = `Chart of ${task.name}: ${task.metric} against ${title}, ${plural(points.length, "point")}.`;
  return `${name} Arrow keys move between points, Enter holds one, Escape lets go. The table below has the numbers.`;
}

function caption(parts, points) {
  const lines = [], all = parts.data.points.filter((point) => point.task === pareto.task);
  const single = points.filter((point) => point.score[2] === 1).length;
  if (points.length > single) lines.push("Bars: standard deviation over seeds.");
  if (single) lines.push(`Hollow: one seed only (${single} of ${points.length}); scores of small tasks move by points from seed to seed.`);
  if (new Set(points.map((point) => point.chain)).size < points.length) lines.push("Thin lines join runs that differ in size alone.");
  if (points.length > 1) lines.push("The grey stair is the front: the points that no other beats.");
  if (pareto.axis === "targets") lines.push("A share of the targets compares compressions of the same weights only; runs without factors have none.");
  const [kind, text] = pareto.axis === "latency" ? latencyWords(parts, all) : ["note", ""];
  parts.caption.replaceChildren(say(lines.join(" ")), ...(text ? [say(text, kind)] : []));
}

function latencyWords(parts, all) {
  const { data } = parts, unmeasured = all.filter((point) => point.condition === null).length;
  const others = all.filter((point) => point.condition !== null && point.condition !== pareto.condition).length;
  if (unmeasured === all.length) return ["warning", "No latency was measured for this task."];
  const missing = unmeasured ? ` Left out: ${plural(unmeasured, "point")} without a latency, or with one of mixed conditions.` : "";
  const rest = others ? ` Measured under other conditions, and not in this chart: ${plural(others, "point")}; choose them above.` : "";
  return [others ? "warning" : "note", `Forward pass: ${data.conditions[pareto.condition]}. A drift of the machine is taken out: shown is the ratio to the teacher, timed in turn, times the teacher's median.${rest}${missing}`];
}
