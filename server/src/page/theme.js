// Runs before anything is painted, so that the page never flashes in the wrong colours.
'use strict';
(() => {
  try {
    const theme = localStorage.getItem('folio-theme');
    if (theme === 'light' || theme === 'dark') document.documentElement.dataset.theme = theme;
  } catch {
    // Storage may be forbidden: then the system's colours it is.
  }
})();
