// Begins when the page is there: makes its explorers, tables and charts of the data that the page carries.

const topworkData = pageData();
mountCurves(topworkData.curves || []);
mountAttention(topworkData.attention || [], topworkData.relevance || []);
mountRelevance(topworkData.relevance || [], topworkData.attention || []);
mountHeads();
mountPredictions(topworkData.predictions || [], topworkData.attention || [], topworkData.relevance || []);
document.documentElement.classList.add("with-script");
