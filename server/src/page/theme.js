// Runs before anything is painted, so that the page never flashes in the wrong colours or with
// another view than the address asks for.
'use strict';
(() => {
  document.documentElement.dataset.view = location.hash.slice(1) || 'chat';
  try {
    const theme = localStorage.getItem('folio-theme');
    if (theme === 'light' || theme === 'dark') document.documentElement.dataset.theme = theme;
  } catch {
    // Storage may be forbidden: then the system's colours it is.
  }
})();
