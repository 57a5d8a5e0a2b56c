// Says what the picture shows.
import { ask, by, form, run, say } from "./common.js";
import { onPicture, source } from "./source.js";

export function setUpDescribe() {
  onPicture(() => {
    by("caption").textContent = "";
  });
  by("describe-button").addEventListener("click", () => {
    if (!source.file) return say("Choose a picture first.", true);
    return run("Describing.", async (signal) => {
      const answer = await ask("/page/describe", { ...form({ model: source.model, image: source.file }), signal });
      by("caption").textContent = (await answer.json()).caption;
    });
  });
}
