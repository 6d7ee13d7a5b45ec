// What g++ -fsanitize calls in kernels when an access is misaligned, an index of an array of known
// length is out of its bounds, a shift is too long or a divisor is 0: the launch fails.
#include <stdint.h>

#include "block.h"

namespace {

// The beginning of what the compiler hands over; what follows differs from check to check.
struct Check {
    emulator::Site site;
    int column;
};

[[noreturn]] void fail(const Check* check, const char* what, uint64_t value) {
    emulator::self->block->fail("%s (0x%llx) at %s:%d", what, static_cast<unsigned long long>(value),
                                check->site.file, check->site.line);
}

} // namespace

extern "C" {

void __ubsan_handle_type_mismatch_v1(const Check* check, uintptr_t address) {
    fail(check, address == 0 ? "a null address is used" : "an access is misaligned", address);
}
void __ubsan_handle_out_of_bounds(const Check* check, uintptr_t index) {
    fail(check, "an index is out of the bounds of its array", index);
}
void __ubsan_handle_shift_out_of_bounds(const Check* check, uintptr_t, uintptr_t distance) {
    fail(check, "a shift is too long or of a negative number", distance);
}
void __ubsan_handle_divrem_overflow(const Check* check, uintptr_t dividend, uintptr_t) {
    fail(check, "a division by 0 or one that overflows", dividend);
}

} // extern "C"
