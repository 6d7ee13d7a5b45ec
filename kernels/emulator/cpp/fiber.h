// Switching between stacks.
#pragma once

// Keeps the registers that a call must keep, notes the stack pointer in `*from`, and goes on where the
// switch away from `to` was called.
extern "C" void folio_emulator_switch(void** from, void* to);

namespace emulator {

// The stack pointer of a fiber that has not begun: a switch to it calls `entry`, which must not return.
void* prepare_stack(void* top, void (*entry)());

} // namespace emulator
