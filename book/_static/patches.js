// The sliders of a gallery of patches (clouddl_study/pages/patches.py). Without this script image
// and mask stand one above the other, and the sliders stay hidden.
document.addEventListener("DOMContentLoaded", () => {
  for (const patch of document.querySelectorAll(".patches figure")) {
    const [cut, threshold] = patch.querySelectorAll("input");
    const verdicts = JSON.parse(patch.dataset.verdicts);
    cut.addEventListener("input", () => patch.style.setProperty("--cut", `${cut.value}%`));
    threshold.addEventListener("input", () => {
      patch.style.setProperty("--step", threshold.value);
      threshold.setAttribute("aria-valuetext", verdicts[threshold.value]);
      patch.querySelector("output").textContent = verdicts[threshold.value];
    });
    for (const label of patch.querySelectorAll("label")) label.hidden = false;
    patch.classList.add("scripted");
  }
});
