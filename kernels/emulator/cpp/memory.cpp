// Copies in the background. See memory.h.
#include "memory.h"

#include "launch.h"

namespace emulator {

void start_copy(void* shared, const void* source, bool valid) {
    Block& block = *self->block;
    block.check_shared(shared, 16, "cp.async writes");
    // Where nothing is copied the source is not read, but it must be aligned all the same.
    const bool is_aligned = reinterpret_cast<uintptr_t>(source) % 16 == 0;
    if (!is_aligned) block.fail("cp.async from %p, misaligned", source);
    if (valid) block.check_global(source, 16, "cp.async reads");
    memset(shared, 0xff, 16);
    self->copies->pending.push_back({shared, source, valid});
    self->copies->num_uncommitted++;
}

void commit_copies() {
    self->copies->groups.push_back(self->copies->num_uncommitted);
    self->copies->num_uncommitted = 0;
}

void wait_for_copies(unsigned num_groups_left) {
    std::vector<uint32_t>& groups = self->copies->groups;
    std::vector<PendingCopy>& copies = self->copies->pending;
    if (groups.size() <= num_groups_left) return;
    const size_t num_groups = groups.size() - num_groups_left;
    size_t num_copies = 0;
    for (size_t i = 0; i < num_groups; i++) num_copies += groups[i];
    for (size_t i = 0; i < num_copies; i++) {
        const PendingCopy& copy = copies[i];
        if (copy.valid) memcpy(copy.shared, copy.source, 16);
        else memset(copy.shared, 0, 16);
    }
    groups.erase(groups.begin(), groups.begin() + static_cast<ptrdiff_t>(num_groups));
    copies.erase(copies.begin(), copies.begin() + static_cast<ptrdiff_t>(num_copies));
}

} // namespace emulator
