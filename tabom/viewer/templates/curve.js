  // The curve of entropies; part of viewer.js, whose names it uses.

  function drawCurve(panel) {
    const { decoding, figure } = panel;
    const points = decoding.tokens
      .map((_, i) => ({ i, at: decoding.steps[i] + 1, entropy: decoding.entropies[i] }))
      .filter((point) => point.i < decoding.numTokens && point.at > 0 && point.entropy !== null)
      .sort((a, b) => a.at - b.at);
    panel.dots = [];
    if (points.length === 0) {
      figure.replaceChildren(make("figcaption", "quiet", "No entropies were recorded."));
      return;
    }
    const width = Math.max(200, figure.clientWidth);
    const [height, left, right, top, bottom] = [200, 38, 10, 24, 34];
    const highest = highestEntropy();
    const x = (at) => left + ((at - 1) / Math.max(1, numSteps - 1)) * (width - left - right);
    const y = (entropy) => height - bottom - (entropy / highest) * (height - top - bottom);
    const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img" });
    const half = Math.ceil(points.length / 2);
    const [early, late] = [points.slice(0, half), points.slice(half)].map((part) => part.map((point) => point.entropy));
    const summary =
      `Mean entropy ${nats(mean(early))} nats over the half of the tokens revealed first` +
      (late.length ? `, ${nats(mean(late))} nats over the other half.` : ".");
    svg.setAttribute("aria-label", `Entropy of each token when it was revealed, by step, from 0 to ${nats(highest)} nats. ${summary}`);
    for (const tick of ticks(highest)) {
      svg.append(draw("line", { class: "grid", x1: left, x2: width - right, y1: y(tick), y2: y(tick) }));
      svg.append(draw("text", { x: left - 6, y: y(tick) + 4, "text-anchor": "end" }, `${tick}`));
    }
    for (const at of new Set([1, Math.round((1 + numSteps) / 2), numSteps])) {
      svg.append(draw("text", { x: x(at), y: height - bottom + 15, "text-anchor": "middle" }, `${at}`));
    }
    svg.append(draw("text", { x: (left + width - right) / 2, y: height - 4, "text-anchor": "middle" }, "step"));
    svg.append(draw("text", { x: 4, y: top - 12 }, "nats"));

    const steps = [...new Set(points.map((point) => point.at))];
    const means = new Map(steps.map((at) => [at, mean(points.filter((point) => point.at === at).map((point) => point.entropy))]));
    const path = steps.map((at) => `${x(at).toFixed(1)},${y(means.get(at)).toFixed(1)}`).join(" ");
    const clip = draw("clipPath", { id: `done-${panels.indexOf(panel)}` });
    const done = draw("rect", { x: 0, y: 0, width: 0, height });
    clip.append(done);
    const group = draw("g", { "clip-path": `url(#${clip.id})` });
    group.append(draw("polyline", { class: "line", points: path }));
    for (const point of points) {
      const dot = draw("circle", { cx: x(point.at), cy: y(point.entropy), r: 3 });
      panel.dots[point.i] = dot;
      group.append(dot);
    }
    const cursor = draw("g", { class: "cursor" });
    const line = draw("line", { y1: top - 8, y2: height - bottom });
    const ring = draw("circle", { r: 5.5 });
    const label = draw("text", { y: top - 12 });
    cursor.append(line, ring, label);
    svg.append(clip, draw("polyline", { class: "line ahead", points: path }), group, cursor);
    figure.replaceChildren(svg, make("figcaption", "quiet", `Entropy when revealed. ${summary}`));

    panel.moveCurve = () => {
      done.setAttribute("width", step === 0 ? 0 : x(step) + 3.5);
      cursor.toggleAttribute("hidden", step === 0);
      if (step === 0) return;
      const entropy = means.get(step);
      for (const end of ["x1", "x2"]) line.setAttribute(end, x(step));
      ring.toggleAttribute("hidden", entropy === undefined);
      label.textContent = "";
      if (entropy === undefined) return;
      ring.setAttribute("cx", x(step));
      ring.setAttribute("cy", y(entropy));
      const isRight = x(step) > width / 2;
      label.setAttribute("x", x(step) + (isRight ? 4 : -4));
      label.setAttribute("text-anchor", isRight ? "end" : "start");
      label.textContent = `${nats(entropy)} nats`;
    };
  }

  function ticks(highest) {
    const rough = highest / 3;
    const power = 10 ** Math.floor(Math.log10(rough));
    const size = [1, 2, 5, 10].map((factor) => factor * power).find((value) => value >= rough);
    return Array.from({ length: Math.floor(highest / size) + 1 }, (_, i) => Number((i * size).toPrecision(6)));
  }
