// The tabs, the model, and what they share. Each tab has a file of its own.
import { setUpCodes } from "./codes.js";
import { setUpDescribe } from "./describe.js";
import { setUpDraw } from "./draw.js";
import { setUpEdit } from "./edit.js";
import { by, element, say } from "./common.js";
import { setUpSource, useModel } from "./source.js";

function setUpTabs() {
  const tabs = [...document.querySelectorAll('[role="tab"]')];
  const choose = (chosen, takesFocus) => {
    for (const tab of tabs) {
      const isChosen = tab === chosen;
      tab.setAttribute("aria-selected", isChosen);
      tab.tabIndex = isChosen ? 0 : -1;
      by(tab.getAttribute("aria-controls")).hidden = !isChosen;
    }
    by("source").hidden = chosen.id === "tab-draw";
    if (takesFocus) chosen.focus();
  };
  for (const tab of tabs) {
    tab.addEventListener("click", () => choose(tab, false));
    tab.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      const shown = tabs.filter((each) => !each.hidden);
      if (step) choose(shown[(shown.indexOf(tab) + step + shown.length) % shown.length], true);
    });
  }
}

async function describeModel() {
  const answer = await fetch(`/page/models/${encodeURIComponent(by("model").value)}`);
  const model = await answer.json();
  for (const name of ["guidance_scale", "temperature"]) by(name).placeholder = model.sampling[name];
  by("tab-describe").hidden = !model.can_caption;
  by("tab-codes").hidden = by("tab-edit").hidden = model.grid === null;
  useModel(by("model").value, model);
}

async function start() {
  setUpTabs();
  setUpSource();
  for (const setUp of [setUpDraw, setUpEdit, setUpDescribe, setUpCodes]) setUp();
  const answer = await fetch("/v1/models");
  for (const model of (await answer.json()).data) element("option", model.id, by("model"));
  by("model").addEventListener("change", describeModel);
  await describeModel();
}

start().catch((error) => say(error.message, true));
