// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_DEVICES_VIRTIO_DRIVER_FAKE_RAM_H_
#define CLOISTER_DEVICES_VIRTIO_DRIVER_FAKE_RAM_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <type_traits>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "cloister/memory/guest_address.h"
#include "cloister/memory/guest_memory.h"
#include "cloister/memory/guest_memory_mapping.h"
#include "cloister/memory/page_state_map.h"
#include "cloister/memory/shared_view.h"

namespace cloister::devices::virtio {

// A guest's memory for tests: one region, all of it shared at first, and
// access to it as the guest has it, which asks no view. Aborts on mistakes of
// the test. Thread-safe but for Alloc.
//
// The device and the guest map it apart. In the device's mapping a guard page
// lies at either end, and what is not shared cannot be touched: SIGSEGV for the
// device, EFAULT for a system call that it makes.
class FakeRam {
 public:
  static constexpr uint64_t kDefaultSize = uint64_t{4} << 20;

  explicit FakeRam(uint64_t size = kDefaultSize, uint64_t start = 0x100000);
  FakeRam(const FakeRam&) = delete;
  FakeRam& operator=(const FakeRam&) = delete;

  // What the device gets.
  memory::SharedView& view() { return *view_; }
  const memory::GuestRange& range() const { return range_; }
  // Of the pages that the device holds leases on now.
  uint64_t LeasedBytes() const { return view_->LeasedBytes(); }

  // Makes the pages that [start, start + size) touches `state`, leases or not.
  // While the device holds any lease, pages that cease to be shared stay
  // within its reach: it may be at them still.
  void SetState(memory::GuestAddress start, uint64_t size,
                memory::PageState state);
  // From now on pages stay within reach whatever their state. For devices that
  // leave memory to the kernel and do not tell EFAULT from other errors: the
  // test marks what is private and looks where the marks go.
  void StopProtecting() { protects_ = false; }

  // Zeroed memory that nobody else has; never given back.
  memory::GuestAddress Alloc(uint64_t size, uint64_t alignment = 16);
  // Whole pages, so that their state can be changed.
  memory::GuestAddress AllocPages(uint64_t pages);
  // Alloc, filled with `bytes`.
  memory::GuestAddress AllocString(absl::string_view bytes);

  // The guest's own accesses.
  std::vector<uint8_t> Bytes(memory::GuestAddress from, uint64_t size) const;
  std::string String(memory::GuestAddress from, uint64_t size) const;
  void Write(memory::GuestAddress to, absl::Span<const uint8_t> bytes);
  void Write(memory::GuestAddress to, absl::string_view bytes);
  // Atomic; loads acquire and stores release, sequentially consistent.
  template <typename T>
  T Load(memory::GuestAddress from) const {
    return *guest_->Load<T>(from, std::memory_order_seq_cst);
  }
  template <typename T>
  void Store(memory::GuestAddress to, std::type_identity_t<T> value) {
    Require(guest_->Store<T>(to, value, std::memory_order_seq_cst).ok());
  }

 private:
  static void Require(bool condition);
  static std::unique_ptr<memory::GuestMemory> OneRegion(
      uint64_t start, memory::HostMapping mapping);
  // What the device may do with these pages.
  void Protect(const memory::GuestRange& pages, int protection);

  memory::GuestRange range_;
  bool protects_ = true;
  std::unique_ptr<memory::GuestMemory> memory_;  // the device's, with guards
  std::unique_ptr<memory::GuestMemory> guest_;
  memory::PageStateMap states_;
  std::unique_ptr<memory::SharedView> view_;
  uint64_t next_;  // free from here
};

}  // namespace cloister::devices::virtio

#endif  // CLOISTER_DEVICES_VIRTIO_DRIVER_FAKE_RAM_H_
