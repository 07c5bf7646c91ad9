// Training curves: one small chart per loss term and dev metric; a line per seed, and a second group to compare with.

const STYLES = [{ stroke: "var(--series-0)" }, { stroke: "var(--series-1)", "stroke-dasharray": "5 3" }];

function startCurves(data) {
  const home = section("curves"), { groups, most } = data.curves;
  if (!groups.length) {
    return home.append(say("No run here has training curves: a student that is trained (student.epochs above 0) writes them "
      + "beside itself, as student/metrics.csv."));
  }
  const state = { first: "0", second: "" }, panels = html("div", { class: "panels" }), legend = html("div", { class: "legend" });
  const options = groups.map((group, index) => [String(index), group.title]);
  const draw = () => drawCurves(panels, legend, [state.first, state.second].filter(Boolean).map((i) => groups[+i]));
  home.append(say(`One chart per loss term, as it was logged before weighing; train/loss is the weighted sum that was minimized. `
    + `One line per seed. Each curve shows at most ${most} of its points, evenly picked.`),
  html("div", { class: "controls" },
    dropdown("runs", options, state.first, (value) => { state.first = value; draw(); }),
    ...(groups.length > 1 ? [dropdown("compare with", [["", "nothing"], ...options], "", (value) => { state.second = value; draw(); })] : [])),
  legend, panels);
  whenSized(panels, draw);
}

function drawCurves(panels, legend, groups) {
  const names = [...new Set(groups.flatMap((group) => group.runs.flatMap((run) => run.curves.map((curve) => curve[0]))))];
  legend.replaceChildren(...groups.map((group, index) => key(svg("path", { class: "curve", d: "M0,8H22", style: STYLES[index] }), group.title)));
  panels.replaceChildren(...names.map((name) => html("figure", {}, html("figcaption", {}, name), html("div", { class: "chart" }))));
  panels.querySelectorAll(".chart").forEach((home, index) => home.append(curvePanel(names[index], groups, home.clientWidth || 300)));
}

function curvePanel(name, groups, width) {
  const lines = groups.flatMap((group, index) => group.runs.flatMap((run) => run.curves.filter((curve) => curve[0] === name)
    .map((curve) => ({ index, seed: run.seed, steps: run.steps[curve[1]], values: curve[2] }))));
  const height = 200, box = { left: 52, right: width - 10, top: 10, bottom: height - 42 };
  const all = lines.flatMap((line) => line.values), low = Math.min(...all), high = Math.max(...all);
  const margin = (high - low || Math.abs(high) || 1) * 0.06;
  const x = linear(0, Math.max(1, ...lines.flatMap((line) => line.steps)), box.left, box.right);
  const y = Object.assign(linear(low - margin, high + margin, box.bottom, box.top), {});
  y.ticks = roundSteps(low - margin, high + margin, 4);
  const label = `${name} over optimizer steps, ${lines.length} lines, from ${number(low)} to ${number(high)}`;
  return svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label },
    frame(box, x, y, { x: "step" }), lines.map((line) => curveLine(line, x, y)));
}

function curveLine({ index, seed, steps, values }, x, y) {
  const title = svg("title", {}, `seed ${seed}`);
  if (values.length === 1) return svg("circle", { cx: x(steps[0]), cy: y(values[0]), r: 3, style: { fill: STYLES[index].stroke } }, title);
  const path = `M${values.map((value, i) => `${x(steps[i]).toFixed(1)},${y(value).toFixed(1)}`).join("L")}`;
  const dots = values.length > 12 ? [] : values.map((value, i) =>
    svg("circle", { cx: x(steps[i]), cy: y(value), r: 2.5, style: { fill: STYLES[index].stroke } }));
  return svg("g", {}, title, svg("path", { class: "curve", d: path, style: STYLES[index] }), dots);
}
