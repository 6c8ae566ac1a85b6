"use strict";
// What a figure does when one points at it. The page reads without this.
(() => {
  const figure = document.getElementById("figure");
  const svg = figure.querySelector("svg");
  const tip = document.getElementById("tip");
  document.getElementById("how").hidden = false;

  // ---- what a mark stands for: our own words beside the pointer, for the keyboard too

  const show = (mark, x, y) => {
    tip.textContent = mark.getAttribute("aria-label");
    tip.hidden = false;
    const width = tip.offsetWidth, height = tip.offsetHeight;
    tip.style.setProperty("left", `${Math.max(4, Math.min(x + 14, innerWidth - width - 4))}px`);
    tip.style.setProperty("top", `${y + 18 + height < innerHeight ? y + 18 : Math.max(4, y - height - 12)}px`);
  };
  const hide = () => { tip.hidden = true; };

  const marks = [...svg.querySelectorAll("a[data-runs]")];
  const seen = new Set();
  for (const mark of marks.reverse()) {  // what is drawn last lies on top, and is the one that Tab stops at
    const title = mark.querySelector("title");
    mark.setAttribute("aria-label", title.textContent);
    title.remove();
    const runs = mark.getAttribute("data-runs");
    if (seen.has(runs)) mark.setAttribute("tabindex", "-1");
    seen.add(runs);
    mark.addEventListener("pointermove", (event) => show(mark, event.clientX, event.clientY));
    mark.addEventListener("pointerleave", hide);
    mark.addEventListener("focus", () => {
      const box = mark.getBoundingClientRect();
      show(mark, box.right, box.bottom - 18);
    });
    mark.addEventListener("blur", hide);
  }

  // ---- entries of the legend hide and show what belongs to them

  const legend = svg.querySelector("[id^=legend]");
  const isEntry = (part) => legend !== null && legend.contains(part);
  for (const text of legend === null ? [] : legend.querySelectorAll("[data-group]")) {
    const group = text.getAttribute("data-group");
    const own = [...svg.querySelectorAll(`[data-group="${group}"]`)];
    const parts = own.filter((part) => !isEntry(part));
    const entries = own.filter(isEntry);
    if (parts.length === 0) continue;
    const toggle = () => {
      const isOff = parts[0].classList.toggle("off");
      parts.forEach((part) => part.classList.toggle("off", isOff));
      entries.forEach((entry) => entry.classList.toggle("faded", isOff));
      entries.forEach((entry) => entry.hasAttribute("role") && entry.setAttribute("aria-pressed", String(!isOff)));
      hide();
    };
    text.addEventListener("click", toggle);
    if (text.querySelector("text") === null) continue;
    text.setAttribute("role", "button");
    text.setAttribute("tabindex", "0");
    text.setAttribute("aria-pressed", "true");
    text.setAttribute("aria-label", `show ${svg.getAttribute(`data-name-${group}`)}`);
    text.addEventListener("keydown", (event) => {
      if (event.key === "Enter" || event.key === " ") { event.preventDefault(); toggle(); }
    });
  }

  // ---- the wheel zooms, dragging moves

  const whole = svg.viewBox.baseVal;
  const all = { x: whole.x, y: whole.y, width: whole.width, height: whole.height };
  let view = { ...all };
  const look = (next) => {
    const width = Math.min(all.width, Math.max(all.width / 40, next.width));
    const height = width * all.height / all.width;
    const inside = (value, low, high) => Math.min(Math.max(value, low), high);
    view = {
      x: inside(next.x, all.x, all.x + all.width - width),
      y: inside(next.y, all.y, all.y + all.height - height),
      width, height,
    };
    svg.setAttribute("viewBox", `${view.x} ${view.y} ${view.width} ${view.height}`);
  };
  const place = (event) => {
    const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
    return { x: at.x, y: at.y };
  };
  const zoom = (by, at) => {
    const width = Math.min(all.width, Math.max(all.width / 40, view.width * by)), share = width / view.width;
    look({ x: at.x - (at.x - view.x) * share, y: at.y - (at.y - view.y) * share, width });
  };
  svg.addEventListener("wheel", (event) => {
    if (event.deltaY > 0 && view.width >= all.width) return;  // nothing to show beyond: the page scrolls
    event.preventDefault();
    zoom(Math.exp(Math.sign(event.deltaY) * Math.min(Math.abs(event.deltaY), 100) / 400), place(event));
  }, { passive: false });

  let grip = null, moved = false;
  svg.addEventListener("pointerdown", (event) => {
    if (event.button === 0) { grip = place(event); moved = false; }
  });
  svg.addEventListener("pointermove", (event) => {
    if (grip === null || event.buttons !== 1) { grip = null; figure.classList.remove("moves"); return; }
    const now = place(event);
    if (!moved && Math.hypot(now.x - grip.x, now.y - grip.y) * all.width / view.width < 3) return;
    moved = true;
    figure.classList.add("moves");
    look({ ...view, x: view.x + grip.x - now.x, y: view.y + grip.y - now.y });
  });
  addEventListener("pointerup", () => { grip = null; figure.classList.remove("moves"); });
  svg.addEventListener("click", (event) => { if (moved) event.preventDefault(); }, true);
  svg.addEventListener("dragstart", (event) => event.preventDefault());
  svg.addEventListener("dblclick", () => look(all));

  svg.addEventListener("keydown", (event) => {
    const middle = { x: view.x + view.width / 2, y: view.y + view.height / 2 };
    const by = view.width / 10;
    const act = {
      "+": () => zoom(0.8, middle), "-": () => zoom(1.25, middle), "0": () => look(all), "Escape": hide,
      "ArrowLeft": () => look({ ...view, x: view.x - by }), "ArrowRight": () => look({ ...view, x: view.x + by }),
      "ArrowUp": () => look({ ...view, y: view.y - by }), "ArrowDown": () => look({ ...view, y: view.y + by }),
    }[event.key];
    if (act && !event.ctrlKey && !event.metaKey && !event.altKey) { event.preventDefault(); act(); }
  });
})();
