"use strict";
(() => {
  const { models, texts, queries } = JSON.parse(document.getElementById("data").textContent);
  const find = (id) => document.getElementById(id);
  const slider = find("step");
  // Viridis of matplotlib from its light end to its dark one: perceptually uniform, also to colour-blind readers.
  const RAMP = ["#fde725", "#addc30", "#5ec962", "#28ae80", "#21918c", "#2c728e", "#3b528b", "#472d7b", "#440154"].map(
    (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16)),
  );
  const SECONDS = 8; // that playing takes at normal speed, unless there are few or very many steps
  const MARKS = { correct: "\u2713", wrong: "\u2717", none: "\u2013" };

  const rows = [];
  let matching = [];
  let current = -1;
  let panels = [];
  let numSteps = 0;
  let step = 0; // steps that are done; 0: everything is masked
  let colouring = "step";
  let frame = null;
  let isPointer = false; // whether the last that a reader did was done by a pointer

  function make(tag, className, text = "") {
    const node = document.createElement(tag);
    node.className = className;
    node.textContent = text;
    return node;
  }

  function draw(tag, attributes, text = "") {
    const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    node.textContent = text;
    return node;
  }

  const verdict = (decoding) => (decoding === null ? "none" : decoding.isCorrect ? "correct" : "wrong");
  const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
  const nats = (value) => value.toFixed(value < 0.1 ? 3 : 2);

  /** Fill, and the text's colour: each is the one of black and white that contrasts more (WCAG 2: above 4.5). */
  function colours(share) {
    const at = share * (RAMP.length - 1);
    const low = Math.min(Math.floor(at), RAMP.length - 2);
    const channels = RAMP[low].map((value, i) => Math.round(value + (at - low) * (RAMP[low + 1][i] - value)));
    return [`rgb(${channels.join(" ")})`, share < 0.57 ? "#000" : "#fff"];
  }

  // The list and its filters

  function buildList() {
    queries.forEach((query, index) => {
      const row = make("button", "row");
      row.type = "button";
      row.tabIndex = -1;
      const verdicts = query.decodings.map(verdict);
      const snippet = query.prompt.trim().slice(0, 120);
      row.append(...verdicts.map((name) => make("span", `mark ${name}`, MARKS[name])), make("span", "snippet", snippet));
      const judged = verdicts.map((name, i) => (models.length > 1 ? `${models[i]}: ${name}` : name));
      row.ariaLabel = `${judged.join(", ")}. ${snippet}`;
      row.addEventListener("click", () => select(index));
      rows.push(row);
    });
    find("list").append(...rows);
    for (const task of [...new Set(queries.map((query) => query.task))].sort()) {
      find("task").append(make("option", "", task));
    }
  }

  function filter() {
    const wanted = [...document.querySelectorAll(".wanted")].map((node) => node.value);
    const task = find("task").value;
    const words = find("search").value.trim().toLowerCase();
    matching = [];
    queries.forEach((query, index) => {
      const isMatch =
        query.decodings.every((decoding, i) => wanted[i] === "" || wanted[i] === verdict(decoding)) &&
        (task === "" || task === query.task) &&
        query.prompt.toLowerCase().includes(words);
      rows[index].hidden = !isMatch;
      if (isMatch) matching.push(index);
    });
    find("count").textContent = `${matching.length} of ${queries.length} match`;
    find("empty").hidden = matching.length > 0;
    find("shown").hidden = matching.length === 0;
    if (matching.length === 0) pause();
    else if (matching.includes(current)) showPlace();
    else select(matching[0]);
  }

  function showPlace() {
    const place = matching.indexOf(current);
    find("place").textContent = `${place + 1} of ${matching.length}`;
    find("previous").disabled = place === 0;
    find("next").disabled = place === matching.length - 1;
  }

  function selectBeside(offset) {
    const index = matching[matching.indexOf(current) + offset];
    if (index === undefined) return;
    const isFocusInList = find("list").contains(document.activeElement);
    select(index);
    if (isFocusInList) rows[index].focus({ preventScroll: true });
  }

  // One query

  function select(index) {
    pause();
    if (current >= 0) {
      rows[current].removeAttribute("aria-current");
      rows[current].tabIndex = -1;
    }
    const wasAtEnd = current >= 0 && step === numSteps;
    current = index;
    rows[index].setAttribute("aria-current", "true");
    rows[index].tabIndex = 0;
    const list = find("list");
    const top = rows[index].offsetTop - list.offsetTop;
    if (top < list.scrollTop) list.scrollTop = top;
    const bottom = top + rows[index].offsetHeight;
    if (bottom > list.scrollTop + list.clientHeight) list.scrollTop = bottom - list.clientHeight;
    const query = queries[index];
    find("id").textContent = query.id;
    find("id").href = address(query);
    find("prompt").textContent = query.prompt;
    find("reference").textContent = query.reference;
    numSteps = Math.max(...query.decodings.filter(Boolean).map((decoding) => Math.max(...decoding.steps) + 1));
    slider.max = numSteps;
    panels = [];
    find("panels").replaceChildren(...query.decodings.map(buildPanel));
    panels.forEach((panel) => panel.drawCurve());
    offerEntropy();
    paint();
    setStep(wasAtEnd ? numSteps : Math.min(step, numSteps));
    showPlace();
  }

  function buildPanel(decoding, number) {
    const node = make("section", "panel");
    node.setAttribute("aria-label", models[number]);
    const heading = make("h3", "", models[number]);
    node.append(heading);
    if (decoding === null) {
      node.append(make("p", "quiet", "This model has no trajectory of the query."));
      return node;
    }
    const name = verdict(decoding);
    heading.append(make("span", `judged ${name}`, `${MARKS[name]} ${name}`));
    const list = make("ol", "tokens");
    list.setAttribute("role", "list"); // Safari takes it away with the numbers
    list.setAttribute("aria-label", `Response of ${decoding.tokens.length} tokens`);
    const cells = decoding.tokens.map((token, i) => {
      const cell = make("li", "");
      const text = texts[token];
      cell.append(make("span", "text", shown(text)));
      cell.append(make("span", "at", decoding.steps[i] < 0 ? MARKS.none : decoding.steps[i] + 1));
      list.append(cell);
      if (text.includes("\n") && i < decoding.numTokens - 1) {
        list.append(make("li", "break"));
        list.lastChild.setAttribute("role", "presentation");
      }
      return cell;
    });
    const figure = make("figure", "");
    const body = make("div", "body");
    const written = make("div", "");
    const response = make("pre", "response");
    const grid = queries[current].grid && buildGrid(decoding, queries[current].grid);
    if (grid) written.append(grid.node);
    written.append(list);
    const numFiller = decoding.tokens.length - decoding.numTokens;
    if (numFiller) written.append(make("p", "quiet", `The ${numFiller} low boxes are filler after the end of the answer.`));
    if (decoding.differing.length) written.append(make("p", "quiet", "Underlined: other than in the reference answer."));
    written.append(make("h4", "", "Response"), response);
    body.append(written, figure);
    node.append(body);
    const states = cells.map(() => "");
    const last = Math.max(...decoding.steps) + 1;
    const panel = { node, decoding, cells, grid, dots: [], figure, moveCurve() {} };
    panel.drawCurve = () => drawCurve(panel);
    panel.update = () => {
      decoding.steps.forEach((at, i) => {
        const state = at < 0 ? "given" : at >= step ? "masked" : at === step - 1 ? "new" : "known";
        if (state === states[i]) return;
        states[i] = state;
        cells[i].className = i < decoding.numTokens ? state : `${state} filler`;
        cells[i].classList.toggle("differs", state !== "masked" && decoding.differing.includes(i));
        cells[i].title = state === "masked" ? "masked" : describe(decoding, i);
      });
      grid?.update();
      response.textContent = step < last ? "Shown when all of it is revealed." : decoding.response;
      panel.moveCurve();
    };
    panels.push(panel);
    return node;
  }

  /** Of a token, what can be seen of it: blanks get a sign, all else stands as it is. */
  function shown(text) {
    const signs = text.replace(/\n/g, "\u21b5").replace(/\t/g, "\u21e5").replace(/\r/g, "\u240d");
    return signs.trim() === "" ? signs.replace(/\s/g, "\u2423") || "\u2205" : signs;
  }

  function describe(decoding, i) {
    const at = decoding.steps[i] < 0 ? "not revealed by decoding" : `step ${decoding.steps[i] + 1}`;
    const entropy = decoding.entropies[i];
    const text = JSON.stringify(texts[decoding.tokens[i]]);
    const further = [entropy === null ? "" : `, entropy ${nats(entropy)} nats`];
    if (decoding.differing.includes(i)) further.push("; other than in the reference answer");
    if (i >= decoding.numTokens) further.push("; filler after the end of the answer");
    return `token ${i + 1}, ${text}: ${at}${further.join("")}`;
  }

  // Colours

  function offerEntropy() {
    const isThere = panels.some((panel) => panel.decoding.entropies.some((value) => value !== null));
    const radio = find("by-entropy");
    radio.disabled = !isThere;
    find("why").textContent = isThere ? "" : "no entropies were recorded here, as in imported trajectories";
    colouring = isThere && radio.checked ? "entropy" : "step";
  }

  /** Of the shown responses up to their ends: what both curves and the colours reach to. */
  function highestEntropy() {
    return Math.max(...panels.flatMap(({ decoding }) => decoding.entropies.slice(0, decoding.numTokens))) || 1;
  }

  function paint() {
    const highest = highestEntropy();
    for (const { decoding, cells, dots, grid } of panels) {
      cells.forEach((cell, i) => {
        const value = colouring === "step" ? decoding.steps[i] : decoding.entropies[i];
        if (value === null || value < 0) {
          cell.style.removeProperty("--fill");
          cell.style.removeProperty("--ink");
          return;
        }
        const [fill, ink] = colours(colouring === "step" ? value / Math.max(1, numSteps - 1) : Math.min(1, value / highest));
        cell.style.setProperty("--fill", fill);
        cell.style.setProperty("--ink", ink);
        if (dots[i]) dots[i].style.fill = fill;
      });
      grid?.cells.forEach((cell, k) => {
        const token = cells[grid.characters[k]?.i];
        for (const name of ["--fill", "--ink"]) cell.style.setProperty(name, token?.style.getPropertyValue(name) ?? "");
      });
    }
    const [low, high] = colouring === "step" ? ["step 1", `${numSteps}`] : ["0", `${nats(highest)} nats`];
    find("low").textContent = low;
    find("high").textContent = high;
    find("ramp").style.background = `linear-gradient(90deg, ${RAMP.map((rgb) => `rgb(${rgb.join(" ")})`).join(", ")})`;
    find("ramp").ariaLabel = `light is ${low}, dark is ${high}`;
  }

{% include "curve.js" %}
{% include "grid.js" %}
{% include "places.js" %}
  // The player

  function setStep(value) {
    step = Math.max(0, Math.min(numSteps, value));
    slider.value = step;
    panels.forEach((panel) => panel.update());
    find("position").textContent = `step ${step} of ${numSteps}`;
    const revealed = panels.map((panel) => {
      const fresh = panel.cells.filter((cell) => cell.classList.contains("new")).map((cell) => cell.firstChild.textContent);
      const name = panels.length > 1 ? `${panel.node.ariaLabel}: ` : "";
      return `${name}${fresh.length ? `revealed ${fresh.join(" ")}` : "nothing new"}`;
    });
    find("status").textContent = `Step ${step} of ${numSteps}. ${step === 0 ? "Everything is masked" : revealed.join("; ")}.`;
    slider.setAttribute("aria-valuetext", `step ${step} of ${numSteps}`);
  }

  function play() {
    if (step === numSteps) setStep(0);
    const rate = Math.min(40, Math.max(3, numSteps / SECONDS)) * Number(find("speed").value);
    const from = step;
    let start = null;
    showPlaying(true);
    const advance = (now) => {
      start ??= now;
      const target = Math.min(numSteps, from + Math.floor(((now - start) / 1000) * rate));
      if (target !== step) setStep(target);
      if (step === numSteps) pause();
      else frame = requestAnimationFrame(advance);
    };
    frame = requestAnimationFrame(advance);
  }

  function pause() {
    if (frame === null) return;
    cancelAnimationFrame(frame);
    frame = null;
    showPlaying(false);
  }

  function showPlaying(isPlaying) {
    const sign = make("span", "", isPlaying ? "\u23f8" : "\u25b6");
    sign.ariaHidden = "true";
    find("play").replaceChildren(sign, isPlaying ? " Pause" : " Play");
    find("status").setAttribute("aria-live", isPlaying ? "off" : "polite");
  }

  const toggle = () => (frame === null ? play() : pause());

  function go(value) {
    pause();
    setStep(value);
  }

  const KEYS = {
    ArrowLeft: () => go(step - 1),
    ArrowRight: () => go(step + 1),
    Home: () => go(0),
    End: () => go(numSteps),
    " ": toggle,
    ArrowUp: () => selectBeside(-1),
    ArrowDown: () => selectBeside(1),
    k: () => selectBeside(-1),
    j: () => selectBeside(1),
  };

  function onKey(event) {
    const { target, key } = event;
    if (event.ctrlKey || event.metaKey || event.altKey || matching.length === 0 || !(key in KEYS)) return;
    if (target.matches("select, input:not([type=range])")) return; // these have a use for the keys themselves
    if (key === " " && target.matches("button:not(.row)")) return;
    event.preventDefault();
    KEYS[key]();
  }

  /** Give the keys back to the page after a control was used by a pointer; the keyboard keeps its place. */
  function release({ target, type }) {
    const used = type === "change" ? "select" : "button:not(.row), [type=radio]"; // a click only opens a select
    if (isPointer && target.matches(used)) target.blur();
  }

  buildList();
  buildSummary();
  for (const node of document.querySelectorAll("#search, #task, .wanted")) node.addEventListener("input", filter);
  slider.addEventListener("input", () => go(Number(slider.value)));
  find("play").addEventListener("click", toggle);
  find("previous").addEventListener("click", () => selectBeside(-1));
  find("next").addEventListener("click", () => selectBeside(1));
  find("speed").addEventListener("input", () => {
    if (frame === null) return;
    pause();
    play();
  });
  for (const radio of document.querySelectorAll("[name=colour]")) {
    radio.addEventListener("change", () => {
      colouring = radio.value;
      paint();
    });
  }
  document.addEventListener("keydown", onKey);
  document.addEventListener("pointerdown", () => (isPointer = true), true);
  document.addEventListener("keydown", () => (isPointer = false), true);
  for (const name of ["click", "change"]) document.addEventListener(name, release);
  window.addEventListener("hashchange", followAddress);
  filter();
  followAddress();
  let width = find("panels").clientWidth;
  new ResizeObserver(() => {
    if (find("panels").clientWidth === width) return;
    width = find("panels").clientWidth;
    panels.forEach((panel) => panel.drawCurve());
    paint();
    panels.forEach((panel) => panel.moveCurve());
  }).observe(find("panels"));
  if (!matchMedia("(prefers-reduced-motion: reduce)").matches) play();
})();
