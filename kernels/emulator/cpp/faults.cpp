// Accesses that the processor refuses become failures of the launch. See faults.h.
//
// The handler lets the thread go on in a function that fails the launch, as if the thread had called it.
#include "faults.h"

#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <ucontext.h>

#include <mutex>

#include "block.h"

namespace emulator {

namespace {

constexpr int signals[] = {SIGSEGV, SIGBUS, SIGFPE};
struct sigaction previous_actions[NSIG];

void fail_after_fault() { self->block->fail_fault(); }

void handle(int number, siginfo_t* info, void* context) {
    if (self == nullptr) {
        const struct sigaction& previous = previous_actions[number];
        if (previous.sa_flags & SA_SIGINFO) previous.sa_sigaction(number, info, context);
        // The instruction runs again, now with nobody to handle its fault.
        else sigaction(number, &previous, nullptr);
        return;
    }
    self->block->fault_address = info->si_addr;
    auto& registers = static_cast<ucontext_t*>(context)->uc_mcontext.gregs;
    registers[REG_RIP] = static_cast<greg_t>(reinterpret_cast<uintptr_t>(fail_after_fault));
    // Nothing of the stack is needed any more, and after an overflow nothing of it is left.
    registers[REG_RSP] = static_cast<greg_t>(self->block->end_of_stack(*self) - sizeof(uint64_t));
}

} // namespace

void catch_faults() {
    static std::once_flag once;
    std::call_once(once, [] {
        struct sigaction action = {};
        action.sa_sigaction = handle;
        action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
        sigemptyset(&action.sa_mask);
        for (const int number : signals) sigaction(number, &action, &previous_actions[number]);
    });
}

static_assert(sizeof(stack_t) <= 64, "FaultStack keeps one");

FaultStack::FaultStack(void* memory, size_t num_bytes) {
    stack_t stack = {};
    stack.ss_sp = memory;
    stack.ss_size = num_bytes;
    sigaltstack(&stack, reinterpret_cast<stack_t*>(previous));
}

FaultStack::~FaultStack() { sigaltstack(reinterpret_cast<stack_t*>(previous), nullptr); }

} // namespace emulator
