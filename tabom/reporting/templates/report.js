"use strict";
// Shows the numbers of the point that is nearest to the pointer; without it, browsers show the title of the one below.
(() => {
  const REACH = 24; // pixels
  const tip = document.createElement("div");
  tip.className = "tip";
  tip.hidden = true;
  document.body.append(tip);

  function show(event, points) {
    let nearest = null;
    let least = REACH;
    for (const point of points) {
      const { left, right, top, bottom } = point.mark.getBoundingClientRect();
      const [x, y] = [(left + right) / 2, (top + bottom) / 2];
      const distance = Math.hypot(x - event.clientX, y - event.clientY);
      if (distance < least) [nearest, least] = [{ x, y, text: point.text }, distance];
    }
    tip.hidden = nearest === null;
    if (nearest === null) return;
    tip.textContent = nearest.text;
    const { width, height } = tip.getBoundingClientRect();
    tip.style.left = `${Math.max(4, Math.min(nearest.x + 10, document.documentElement.clientWidth - width - 4))}px`;
    tip.style.top = `${nearest.y > height + 14 ? nearest.y - height - 10 : nearest.y + 12}px`;
  }

  for (const drawing of document.querySelectorAll("figure svg")) {
    const points = [...drawing.querySelectorAll("use > title")].map((title) => ({ mark: title.parentNode, text: title.textContent }));
    for (const { mark } of points) mark.replaceChildren();
    for (const name of ["pointermove", "pointerdown"]) drawing.addEventListener(name, (event) => show(event, points));
    drawing.addEventListener("pointerleave", () => (tip.hidden = true));
  }
})();
