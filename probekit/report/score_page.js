"use strict";
// Scored texts: their tokens coloured by probability, their alarms, whether they are at home. Texts go in as text.
(() => {
  const root = document.currentScript.previousElementSibling;
  const data = JSON.parse(root.querySelector("script").textContent);
  const STEP = 50; // texts added at a time

  function make(name, attributes, ...children) {
    const element = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) if (value !== undefined) element.setAttribute(key, value);
    element.append(...children.filter((child) => child !== undefined && child !== ""));
    return element;
  }

  const percent = (p) => `${(100 * p).toFixed(p > 0.0995 && p < 0.9995 ? 0 : 1)} %`;
  const number = (x) => (x === null ? "–" : x.toFixed(2).replace("-", "−"));

  function tokenOf(text, token, position) {
    const [words, probability, score, soFar, alarm] = token;
    const about = `token ${position}: ${percent(probability)} · log-odds ${number(score)}, so far ${number(soFar)}${alarm ? " · alarm" : ""}`;
    const classes = ["token", alarm ? "alarm" : "", position === text.first ? "first" : "", soFar === null ? "special" : ""];
    const element = make("span", { class: classes.filter(Boolean).join(" "), title: about }, words);
    element.style.setProperty("--p", (100 * probability).toFixed(0) + "%");
    return element;
  }

  function textOf(text) {
    const facts = [make("span", { class: "chance" }, percent(text.probability))];
    if (text.alarm) facts.push(make("b", { class: "badge ring" }, "alarm"));
    if (text.first !== null) facts.push(make("span", { class: "badge" }, `while streaming: at token ${text.first}`));
    if (text.away) facts.push(make("b", { class: "badge away" }, "out of domain"));
    if (text.cut) facts.push(make("span", { class: "badge" }, "cut"));
    const p = `p ${text.p[2].toFixed(3)} (mean ${text.p[0].toFixed(3)}, neighbours ${text.p[1].toFixed(3)})`;
    facts.push(make("span", { class: "quiet" }, `${text.tokens.length} tokens · at home: ${p}`));
    const body = make("p", { class: "tokens", dir: "auto" }, ...text.tokens.map((token, i) => tokenOf(text, token, i)));
    return make("li", {}, make("div", { class: "facts-line" }, make("span", { class: "id" }, `#${text.index}`), ...facts), body);
  }

  const shows = [["all", () => true], ["alarm", (t) => t.alarm], ["alarm while streaming", (t) => t.first !== null], ["out of domain", (t) => t.away]];
  const list = make("ol", { class: "scored" });
  const more = make("button", { type: "button" }, "Show more");
  const buttons = make("div", { class: "tablist", role: "group", "aria-label": "which texts" });
  let chosen = [], shown = 0;

  function add() {
    list.append(...chosen.slice(shown, shown + STEP).map(textOf));
    shown = Math.min(shown + STEP, chosen.length);
    more.hidden = shown >= chosen.length;
    more.textContent = `Show more (${chosen.length - shown} left)`;
  }

  function show(button, keep) {
    for (const each of buttons.children) each.setAttribute("aria-selected", String(each === button));
    chosen = data.texts.filter(keep);
    shown = 0;
    list.replaceChildren();
    add();
  }

  for (const [name, keep] of shows) {
    const button = make("button", { type: "button" }, `${name} (${data.texts.filter(keep).length})`);
    button.addEventListener("click", () => show(button, keep));
    buttons.append(button);
  }
  more.addEventListener("click", add);
  root.append(buttons, list, more);
  show(buttons.firstChild, shows[0][1]);
})();
