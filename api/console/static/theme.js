// Before anything is drawn, so that a dark page does not flash in white.
document.documentElement.dataset.theme = localStorage.getItem("perdure-theme") ?? "auto";
