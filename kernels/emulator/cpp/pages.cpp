// Memory between pages that nobody may touch. See pages.h.
#include "pages.h"

#include <sys/mman.h>

namespace {

// On each side: a wrong index of a row often misses by more than a page.
constexpr size_t guard_bytes = 1 << 20;
constexpr int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;

} // namespace

extern "C" {

void* folio_emulator_map(size_t num_bytes) {
    void* const base = mmap(nullptr, num_bytes + 2 * guard_bytes, PROT_NONE, flags, -1, 0);
    if (base == MAP_FAILED) return nullptr;
    void* const pages = static_cast<char*>(base) + guard_bytes;
    if (mprotect(pages, num_bytes, PROT_READ | PROT_WRITE) == 0) return pages;
    munmap(base, num_bytes + 2 * guard_bytes);
    return nullptr;
}

void folio_emulator_close(void* pages, size_t num_bytes) {
    madvise(pages, num_bytes, MADV_DONTNEED);
    mprotect(pages, num_bytes, PROT_NONE);
}

void folio_emulator_unmap(void* pages, size_t num_bytes) {
    munmap(static_cast<char*>(pages) - guard_bytes, num_bytes + 2 * guard_bytes);
}

} // extern "C"
