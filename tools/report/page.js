"use strict";
(() => {
  const root = document.documentElement;
  const all = (where, what) => Array.from(where.querySelectorAll(what));
  const keep = (value) => { try { localStorage.setItem("whet-theme", value); } catch { /* files may not */ } };
  try { const kept = localStorage.getItem("whet-theme"); if (kept) root.dataset.theme = kept; } catch { /* the same */ }
  document.getElementById("theme").addEventListener("click", () => {
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
    keep(root.dataset.theme);
  });

  for (const box of all(document, ".table")) {
    const body = box.querySelector("tbody"), rows = Array.from(body.rows), shown = box.querySelector(".shown");
    const words = rows.map((row) => row.textContent.toLowerCase());
    const input = box.querySelector("input"), select = box.querySelector("select");
    const filter = () => {
      const wanted = input.value.toLowerCase().split(/\s+/).filter(Boolean);
      let count = 0;
      rows.forEach((row, k) => {
        const fits = wanted.every((word) => words[k].includes(word))
          && (!select || !select.value || row.cells[select.dataset.column].textContent === select.value);
        row.hidden = !fits;
        count += fits;
      });
      shown.textContent = count === rows.length ? "" : `${count} of ${rows.length}`;
    };
    if (select) {
      const found = new Set(rows.map((row) => row.cells[select.dataset.column].textContent).filter(Boolean));
      for (const name of Array.from(found).sort()) select.add(new Option(name, name));
      select.addEventListener("input", filter);
    }
    input.addEventListener("input", filter);
    body.addEventListener("click", (event) => {
      if (event.target.matches(".why div")) event.target.classList.toggle("open");
    });
    all(box, "th").forEach((head, k) => {
      const sort = () => {
        const cells = rows.map((row) => row.cells[k]);
        const numbers = cells.some((cell) => cell.dataset.v !== undefined);
        const first = head.getAttribute("aria-sort") === (numbers ? "descending" : "ascending");
        const down = numbers !== first;
        const keys = new Map(rows.map((row, n) => [row, numbers
          ? (cells[n].dataset.v === undefined ? null : Number(cells[n].dataset.v)) : cells[n].textContent]));
        const order = new Intl.Collator("en", { numeric: true });
        const sorted = rows.slice().sort((a, b) => {
          const x = keys.get(a), y = keys.get(b);
          if (x === null || y === null) return (x === null) - (y === null);
          return (down ? -1 : 1) * (numbers ? x - y : order.compare(x, y));
        });
        body.append(...sorted);
        all(box, "th").forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
      };
      head.addEventListener("click", sort);
      head.addEventListener("keydown", (event) => { if (event.key === "Enter") sort(); });
    });
  }

  const net = document.getElementById("net");
  if (net) {
    const whole = net.dataset.box.split(" ").map(Number);
    let [x, y, w, h] = whole, drag = null;
    const draw = () => net.setAttribute("viewBox", `${x} ${y} ${w} ${h}`);
    const fit = () => { [x, y, w, h] = whole; };
    const shape = () => net.clientHeight / Math.max(1, net.clientWidth);
    const zoom = (factor, px = x + w / 2, py = y + h / 2) => {
      x = px - (px - x) / factor; y = py - (py - y) / factor; w /= factor; h /= factor;
    };
    const at = (event) => {
      const place = new DOMPoint(event.clientX, event.clientY).matrixTransform(net.getScreenCTM().inverse());
      return [place.x, place.y];
    };
    const top = () => { fit(); if (h > w * shape() * 2) { w = Math.max(w, 900); x = whole[0] - (w - whole[2]) / 2; h = w * shape(); } };
    top(); draw();
    addEventListener("beforeprint", () => { fit(); draw(); });
    all(document, "[data-zoom]").forEach((button) => button.addEventListener("click", () => {
      const factor = Number(button.dataset.zoom);
      if (factor) zoom(factor); else fit();
      draw();
    }));
    net.addEventListener("wheel", (event) => {
      if (!event.ctrlKey && !event.metaKey) return;
      event.preventDefault();
      zoom(event.deltaY < 0 ? 1.2 : 1 / 1.2, ...at(event)); draw();
    }, { passive: false });
    net.addEventListener("pointerdown", (event) => { drag = at(event); net.setPointerCapture(event.pointerId); });
    net.addEventListener("pointermove", (event) => {
      if (!drag) return;
      const [px, py] = at(event);
      x -= px - drag[0]; y -= py - drag[1]; draw();
    });
    for (const name of ["pointerup", "pointercancel"]) net.addEventListener(name, () => { drag = null; });
    const nodes = all(net, "g"), titles = nodes.map((node) => node.querySelector("title").textContent.toLowerCase());
    document.getElementById("find").addEventListener("input", (event) => {
      const wanted = event.target.value.toLowerCase();
      const hits = nodes.filter((node, k) => {
        const hit = Boolean(wanted) && titles[k].includes(wanted);
        node.classList.toggle("hit", hit);
        return hit;
      });
      document.getElementById("found").textContent = wanted ? `${hits.length} found` : "";
      if (!hits.length) return;
      const place = hits[0].transform.baseVal[0].matrix;
      w = Math.min(whole[2], 1200); h = w * shape(); x = place.e + 66 - w / 2; y = place.f - h / 3; draw();
    });
  }
  root.dataset.ready = "yes";
})();
