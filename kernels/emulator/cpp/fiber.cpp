// Switching between stacks: the registers that the System V calling convention keeps across a call.
#include "fiber.h"

#include <stdint.h>

#if !defined(__x86_64__)
#error "the CUDA emulator switches stacks on x86-64 only"
#endif

asm(R"(
.text
.globl folio_emulator_switch
.type folio_emulator_switch, @function
folio_emulator_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size folio_emulator_switch, .-folio_emulator_switch
)");

namespace emulator {

void* prepare_stack(void* top, void (*entry)()) {
    constexpr int num_saved_registers = 6;
    // A function begins with its stack pointer 8 past a multiple of 16: there lies its return address.
    auto* word = reinterpret_cast<uint64_t*>(reinterpret_cast<uintptr_t>(top) & ~uintptr_t{15});
    *--word = 0;
    *--word = reinterpret_cast<uint64_t>(entry);
    for (int i = 0; i < num_saved_registers; i++) *--word = 0;
    return word;
}

} // namespace emulator
