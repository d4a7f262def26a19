// SPDX-License-Identifier: Apache-2.0
#include "cloister/kvm/host_mapping.h"

#include <sys/mman.h>

#include <utility>
#include <vector>

#include "gtest/gtest.h"

namespace cloister::kvm {
namespace {

class CountingSyscalls : public Syscalls {
 public:
  int Open(const char*, int) override { return -1; }
  int Ioctl(int, unsigned long, uintptr_t) override { return -1; }
  void* Mmap(void*, size_t, int, int, int, off_t) override {
    return MAP_FAILED;
  }
  int Munmap(void* address, size_t length) override {
    unmapped.push_back({address, length});
    return 0;
  }
  int Fallocate(int, int, off_t, off_t) override { return -1; }

  std::vector<std::pair<void*, size_t>> unmapped;
};

TEST(HostMapping, UnmapsOnceWhenDestroyed) {
  CountingSyscalls syscalls;
  int memory = 0;
  {
    HostMapping mapping(syscalls, &memory, 4096);
    EXPECT_EQ(mapping.data(), reinterpret_cast<uint8_t*>(&memory));
    HostMapping moved(std::move(mapping));
    EXPECT_EQ(moved.size(), 4096u);
    HostMapping assigned;
    assigned = std::move(moved);
    EXPECT_TRUE(syscalls.unmapped.empty());
  }
  ASSERT_EQ(syscalls.unmapped.size(), 1u);
  EXPECT_EQ(syscalls.unmapped[0].first, &memory);
  EXPECT_EQ(syscalls.unmapped[0].second, 4096u);
}

TEST(HostMapping, AssignmentUnmapsWhatWasHeld) {
  CountingSyscalls syscalls;
  int first = 0, second = 0;
  HostMapping mapping(syscalls, &first, 1);
  mapping = HostMapping(syscalls, &second, 2);
  ASSERT_EQ(syscalls.unmapped.size(), 1u);
  EXPECT_EQ(syscalls.unmapped[0].first, &first);
  EXPECT_EQ(mapping.size(), 2u);
}

TEST(HostMapping, ReleaseGivesUpOwnership) {
  CountingSyscalls syscalls;
  int memory = 0;
  {
    HostMapping mapping(syscalls, &memory, 1);
    EXPECT_EQ(mapping.Release(), &memory);
    EXPECT_EQ(mapping.data(), nullptr);
  }
  EXPECT_TRUE(syscalls.unmapped.empty());
}

}  // namespace
}  // namespace cloister::kvm
