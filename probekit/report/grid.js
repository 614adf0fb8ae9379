"use strict";
// A robot on a grid, step by step: what a probe reads beside what is true. Texts go in as text.
(() => {
  const root = document.currentScript.previousElementSibling;
  const walk = JSON.parse(root.querySelector("script").textContent);
  const SVG = "http://www.w3.org/2000/svg";

  function make(name, attributes, ...children) {
    const element = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    element.append(...children);
    return element;
  }

  function shape(name, attributes, text) {
    const element = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    if (text !== undefined) element.textContent = text;
    return element;
  }

  const likeliest = (p) => p.indexOf(Math.max(...p));
  const percent = (p) => `${Math.round(p / 10)} %`;
  const rowOf = (cell) => Math.floor(cell / walk.columns), columnOf = (cell) => cell % walk.columns;
  const placeOf = (cell) => `row ${rowOf(cell)}, column ${columnOf(cell)}`;
  const readings = walk.steps.map((step) => ({ cell: likeliest(step.place), facing: likeliest(step.heading) }));
  const right = walk.steps.map((step, i) => readings[i].cell === step.robot && readings[i].facing === step.facing);

  // An arrow head in the cell, turned by quarter turns from north.
  function arrow(cell, facing, opacity) {
    const x = columnOf(cell) + 0.5, y = rowOf(cell) + 0.5;
    return shape("path", {
      d: "M0 -.38L.3 .3L0 .14L-.3 .3Z", transform: `translate(${x} ${y}) rotate(${90 * facing})`, class: "robot", opacity,
    });
  }

  function draw(svg, step, reading) {
    svg.setAttribute("viewBox", `-0.05 -0.05 ${walk.columns + 0.1} ${walk.rows + 0.1}`);
    const parts = [];
    walk.walls.forEach((wall, cell) => {
      const x = columnOf(cell), y = rowOf(cell), group = shape("g", {});
      group.append(shape("rect", { x, y, width: 1, height: 1, class: "cell" }));
      if (wall) group.append(shape("rect", { x, y, width: 1, height: 1, class: "wall" }));
      const p = step.place[cell];
      if (reading && p > 5) group.append(shape("rect", { x, y, width: 1, height: 1, class: "there", opacity: (0.9 * p / 1000).toFixed(3) }));
      const count = step.markers[cell];
      if (!reading && count) {
        group.append(shape("circle", { cx: x + 0.5, cy: y + 0.5, r: 0.42, class: "marker" }));
        if (cell !== step.robot) group.append(shape("text", { x: x + 0.5, y: y + 0.64, class: "count" }, count));
      }
      const markers = count ? `, ${count} marker${count > 1 ? "s" : ""}` : "";
      group.append(shape("title", {}, reading ? `${placeOf(cell)}: ${percent(p)}` : `${placeOf(cell)}${wall ? ", wall" : markers}`));
      parts.push(group);
    });
    if (reading) {
      step.heading.forEach((p, facing) => { if (p > 20) parts.push(arrow(reading.cell, facing, (p / 1000).toFixed(3))); });
      if (reading.cell !== step.robot || reading.facing !== step.facing) {
        parts.push(shape("rect", { x: columnOf(reading.cell) + 0.05, y: rowOf(reading.cell) + 0.05, width: 0.9, height: 0.9, class: "miss" }));
      }
    } else {
      parts.push(arrow(step.robot, step.facing, 1));
    }
    svg.replaceChildren(...parts);
  }

  const read = shape("svg", { role: "img", "aria-label": "the state that the probe reads", class: "read" });
  const truth = shape("svg", { role: "img", "aria-label": "the true state", class: "truth" });
  const status = make("div", { class: "status", "aria-live": "polite" });
  const slider = make("input", { type: "range", min: 0, max: walk.steps.length - 1, value: 0, step: 1, "aria-label": "step" });
  const back = make("button", { type: "button", class: "back", "aria-label": "one step back" }, "‹");
  const forth = make("button", { type: "button", class: "forth", "aria-label": "one step on" }, "›");
  const words = walk.steps.map((step, i) => make("button", { type: "button", class: right[i] ? "" : "off" }, step.word));

  let now = 0;
  function show(number) {
    now = Math.max(0, Math.min(walk.steps.length - 1, number));
    const step = walk.steps[now], reading = readings[now];
    slider.value = now;
    slider.setAttribute("aria-valuetext", `step ${now + 1}: ${step.word}`);
    words.forEach((word, i) => (i === now ? word.setAttribute("aria-current", "step") : word.removeAttribute("aria-current")));
    draw(read, step, reading);
    draw(truth, step, null);
    const below = step.markers[step.robot];
    status.textContent = `After word ${now + 1} of ${walk.steps.length}, ${step.word}. ` +
      `Read: ${placeOf(reading.cell)} (${percent(step.place[reading.cell])}), facing ${walk.facings[reading.facing]} ` +
      `(${percent(step.heading[reading.facing])}). True: ${placeOf(step.robot)}, facing ${walk.facings[step.facing]}` +
      `${below ? `, on ${below} marker${below > 1 ? "s" : ""}` : ""}. ${right[now] ? "Read rightly." : "Read wrongly."}`;
  }
  words.forEach((word, i) => word.addEventListener("click", () => show(i)));
  slider.addEventListener("input", () => show(Number(slider.value)));
  back.addEventListener("click", () => show(now - 1));
  forth.addEventListener("click", () => show(now + 1));
  root.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (step) { event.preventDefault(); show(now + step); }
  });
  const figure = make("figure", { class: "walk" });
  if (walk.title) figure.append(make("p", { class: "gametitle" }, walk.title));
  figure.append(
    make("div", { class: "words" }, ...words),
    make("div", { class: "controls" }, back, slider, forth),
    make("div", { class: "grids" },
      make("div", {}, make("p", {}, "What the probes read"), read), make("div", {}, make("p", {}, "The true world"), truth)),
    status,
    make("figcaption", {}, "Left: cells are as orange as the robot is read to be there; arrows at the likeliest cell are as solid as " +
      "their facing is read. Right: grey cells are walls, rings hold so many markers, the arrow is the robot. Words underlined in " +
      "yellow, and frames, are readings whose likeliest cell or facing is wrong. Arrow keys step through the words."),
  );
  root.append(figure);
  show(walk.start);
})();
