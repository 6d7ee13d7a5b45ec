// Memory between pages that nobody may touch.
#pragma once
#include <stddef.h>

extern "C" {

// Pages of `num_bytes`, a multiple of the page size, between others that fault; null if there are none.
void* folio_emulator_map(size_t num_bytes);
// Gives back what they hold; whoever touches them from here on faults.
void folio_emulator_close(void* pages, size_t num_bytes);
// Gives back the addresses too.
void folio_emulator_unmap(void* pages, size_t num_bytes);

} // extern "C"
