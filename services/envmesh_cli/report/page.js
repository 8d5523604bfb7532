(() => {
  "use strict";
  const root = document.documentElement;
  const dark = () => root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  const turn = () => { root.dataset.theme = dark() ? "light" : "dark"; };
  document.getElementById("theme").addEventListener("click", turn);
  const rows = [...document.querySelectorAll("details > summary")];
  const go = (by) => {
    const at = rows.indexOf(document.activeElement);
    const next = rows[Math.min(rows.length - 1, Math.max(0, at < 0 ? 0 : at + by))];
    if (next) { next.focus(); next.scrollIntoView({ block: "nearest" }); }
  };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "t") turn();
    else if (event.key === "j") go(1);
    else if (event.key === "k") go(-1);
    else if (event.key === "Escape") rows.forEach((row) => { row.parentElement.open = false; });
  });
  addEventListener("beforeprint", () => rows.forEach((row) => { row.parentElement.open = true; }));
})();
