// What the page uses of D3. bench/generate/d3_bundle.py makes d3.min.js from it.
export { extent, max, range } from "d3-array";
export { axisBottom, axisLeft } from "d3-axis";
export { scaleBand, scaleLinear, scalePoint } from "d3-scale";
export { select } from "d3-selection";
export { line } from "d3-shape";
