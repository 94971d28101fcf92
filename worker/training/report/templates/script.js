"use strict";
(() => {
  const panel = document.getElementById("panel");
  const narrow = window.matchMedia("(max-width: 640px)");
  let shown = null;
  let pinned = false;
  document.documentElement.classList.add("js");

  const add = (parent, tag, text, className) => {
    const node = parent.appendChild(document.createElement(tag));
    if (text !== undefined) node.textContent = text;
    if (className) node.className = className;
    return node;
  };

  const share = (text) => {
    if (text.startsWith("<")) return 0.00005;
    if (text.startsWith(">")) return 1;
    return Number.parseFloat(text) / 100;
  };

  const addBar = (list, text) => {
    const svg = list.appendChild(document.createElementNS("http://www.w3.org/2000/svg", "svg"));
    svg.setAttribute("aria-hidden", "true");
    const values = text.split(" → ").map(share).filter(Number.isFinite);
    values.forEach((value, index) => {
      const bar = svg.appendChild(document.createElementNS("http://www.w3.org/2000/svg", "rect"));
      bar.setAttribute("width", `${100 * value}%`);
      bar.setAttribute("height", values.length > 1 ? "4" : "8");
      bar.setAttribute("y", index ? "4" : "0");
      if (values.length > 1 && !index) bar.setAttribute("class", "was");
    });
  };

  const show = (token) => {
    if (shown) shown.classList.remove("on");
    shown = token;
    token.classList.add("on");
    const table = document.getElementById(token.parentNode.dataset.table);
    const contexts = [...table.tHead.rows[0].cells].slice(4);
    const row = table.tBodies[0].rows[[...token.parentNode.querySelectorAll(".t")].indexOf(token)];
    const cells = [...row.cells].map((cell) => cell.textContent);
    panel.replaceChildren();
    add(panel, "h4", `“${cells[0].replace("\n", "")}”`);
    const line = add(panel, "p", "weight ");
    add(line, "b", cells[1]);
    line.append(` · ${cells[2]} · ${cells[3]}`);
    const list = add(panel, "dl");
    contexts.forEach((context, index) => {
      add(list, "dt", context.textContent);
      addBar(list, cells[4 + index]);
      add(list, "dd", cells[4 + index]);
    });
    panel.hidden = false;
    place(token);
  };

  const place = (token) => {
    if (narrow.matches) {
      panel.removeAttribute("style");
      return;
    }
    const box = token.getClientRects()[0];
    const below = box.bottom + panel.offsetHeight + 12 < window.innerHeight;
    const top = below ? box.bottom + 8 : box.top - panel.offsetHeight - 8;
    const left = Math.max(8, Math.min(box.left - 20, document.documentElement.clientWidth - panel.offsetWidth - 8));
    panel.style.top = `${window.scrollY + top}px`;
    panel.style.left = `${window.scrollX + left}px`;
  };

  const hide = () => {
    if (shown) shown.classList.remove("on");
    shown = null;
    pinned = false;
    panel.hidden = true;
  };

  const travel = (tokens, from, key) => {
    const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: 10, ArrowUp: -10, Home: -tokens.length, End: tokens.length };
    if (!(key in steps)) return false;
    const next = tokens[Math.max(0, Math.min(tokens.length - 1, tokens.indexOf(from) + steps[key]))];
    from.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
    return true;
  };

  for (const group of document.querySelectorAll(".tokens")) {
    const tokens = [...group.querySelectorAll(".t")];
    // One tab stop for the whole response; the arrow keys do the rest.
    tokens.forEach((token, index) => { token.tabIndex = index ? -1 : 0; });
    group.addEventListener("pointerover", (event) => {
      if (event.pointerType === "mouse" && !pinned && event.target.matches(".t")) show(event.target);
    });
    group.addEventListener("pointerleave", () => { if (!pinned) hide(); });
    group.addEventListener("focusin", (event) => { if (event.target.matches(".t")) show(event.target); });
    group.addEventListener("focusout", () => { if (!pinned) hide(); });
    group.addEventListener("keydown", (event) => {
      if (event.target.matches(".t") && travel(tokens, event.target, event.key)) event.preventDefault();
    });
    group.addEventListener("click", (event) => {
      if (!event.target.matches(".t")) return;
      event.stopPropagation();
      const again = pinned && shown === event.target;
      if (again) hide();
      else {
        show(event.target);
        pinned = true;
      }
    });
  }
  document.addEventListener("click", hide);
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });
})();
