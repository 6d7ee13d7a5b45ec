// Copies in the background. See memory.h.
#include "memory.h"

namespace emulator {

void start_copy(void* shared, const void* source, bool valid) {
    Block& block = *self->block;
    block.check_shared(shared, 16, "cp.async writes");
    // Where nothing is copied the source is not read, but it must be aligned all the same.
    if (valid) block.check_global(source, 16, "cp.async reads");
    else if (reinterpret_cast<uintptr_t>(source) % 16 != 0) block.fail("cp.async from %p, misaligned", source);
    memset(shared, 0xff, 16);
    self->copies.push_back({shared, source, valid});
    self->num_uncommitted++;
}

void commit_copies() {
    self->groups.push_back(self->num_uncommitted);
    self->num_uncommitted = 0;
}

void wait_for_copies(unsigned num_groups_left) {
    std::vector<uint32_t>& groups = self->groups;
    std::vector<PendingCopy>& copies = self->copies;
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
