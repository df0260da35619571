"use strict";
(() => {
  const panels = JSON.parse(document.getElementById("data").textContent);
  const tip = document.getElementById("tip");
  const drawings = [...document.querySelectorAll(".plot svg[data-panel]")];
  const buttons = [...document.querySelectorAll(".legend button")];
  const hidden = new Set();
  const NEAR = 28, MOST = 4;
  const [X, Y, METHOD, MEAN, TITLE, LINES] = [0, 1, 2, 3, 4, 5];

  const visible = (number) => panels[number].filter((item) => !hidden.has(item[METHOD]));

  const write = (items) => {
    tip.replaceChildren();
    for (const item of items.slice(0, MOST)) {
      const title = document.createElement("b");
      title.textContent = item[TITLE];
      tip.append(title);
      for (const line of item[LINES]) {
        const row = document.createElement("span");
        row.textContent = line;
        tip.append(row);
      }
    }
    if (items.length > MOST) {
      const more = document.createElement("b");
      more.textContent = `and ${items.length - MOST} more here`;
      tip.append(more);
    }
  };

  const show = (svg, items) => {
    const matrix = svg.getScreenCTM();
    if (!matrix) return;
    const at = new DOMPoint(items[0][X], items[0][Y]).matrixTransform(matrix);
    write(items);
    tip.hidden = false;
    const box = tip.getBoundingClientRect(), gap = 16;
    const wide = document.documentElement.clientWidth, high = document.documentElement.clientHeight;
    const right = at.x + gap + box.width <= wide;
    tip.style.left = `${Math.max(4, right ? at.x + gap : Math.min(at.x - gap - box.width, wide - box.width - 4))}px`;
    tip.style.top = `${Math.max(4, Math.min(at.y - box.height / 2, high - box.height - 4))}px`;
    const ring = svg.querySelector(".ring");
    ring.setAttribute("cx", items[0][X]);
    ring.setAttribute("cy", items[0][Y]);
  };

  const clear = () => {
    tip.hidden = true;
    for (const svg of drawings) svg.querySelector(".ring").setAttribute("cx", -99);
    light(null);
  };

  const light = (method) => {
    for (const svg of drawings) {
      svg.classList.toggle("lit", method !== null);
      for (const group of svg.querySelectorAll(".method")) {
        group.classList.toggle("on", Number(group.dataset.m) === method);
      }
    }
  };

  const nearest = (svg, number, x, y) => {
    const inverse = svg.getScreenCTM().inverse();
    const spot = new DOMPoint(x, y).matrixTransform(inverse);
    const reach = NEAR * Math.abs(inverse.a);
    let best = null, least = reach * reach;
    for (const item of visible(number)) {
      const far = (item[X] - spot.x) ** 2 + (item[Y] - spot.y) ** 2 - (item[MEAN] ? 4 : 0);
      if (far < least) [best, least] = [item, far];
    }
    if (best === null) return [];
    const same = visible(number).filter(
      (item) => item !== best && Math.hypot(item[X] - best[X], item[Y] - best[Y]) < 1.5,
    );
    return [best, ...same];
  };

  drawings.forEach((svg, number) => {
    let current = null;
    const point = (event) => {
      const items = nearest(svg, number, event.clientX, event.clientY);
      if (items.length === 0) return clear();
      current = items[0];
      show(svg, items);
    };
    svg.addEventListener("pointermove", point);
    svg.addEventListener("pointerdown", point);
    svg.addEventListener("pointerleave", clear);
    svg.addEventListener("blur", clear);
    svg.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      if (event.key === "Escape") return clear();
      if (step === undefined) return undefined;
      event.preventDefault();
      const means = visible(number).filter((item) => item[MEAN]);
      if (event.key === "ArrowLeft" || event.key === "ArrowRight") means.sort((a, b) => a[X] - b[X] || a[Y] - b[Y]);
      if (means.length === 0) return clear();
      const before = means.indexOf(current);
      current = means[before < 0 ? 0 : (before + step + means.length) % means.length];
      light(current[METHOD]);
      return show(svg, [current]);
    });
  });

  for (const button of buttons) {
    const method = Number(button.dataset.m);
    button.addEventListener("click", () => {
      if (!hidden.delete(method)) hidden.add(method);
      button.setAttribute("aria-pressed", String(!hidden.has(method)));
      for (const group of document.querySelectorAll(`.method[data-m="${method}"]`)) {
        group.classList.toggle("off", hidden.has(method));
      }
      clear();
    });
    for (const name of ["pointerenter", "focus"]) button.addEventListener(name, () => light(method));
    for (const name of ["pointerleave", "blur"]) button.addEventListener(name, () => light(null));
  }
  addEventListener("scroll", clear, { passive: true });
  addEventListener("beforeprint", () => {
    clear();
    for (const details of document.querySelectorAll("details")) details.open = true;
  });
})();
