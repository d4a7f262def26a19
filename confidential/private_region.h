// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_CONFIDENTIAL_PRIVATE_REGION_H_
#define CLOISTER_CONFIDENTIAL_PRIVATE_REGION_H_

#include <cstdint>
#include <memory>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "cloister/kvm/guest_memfd.h"
#include "cloister/kvm/vm.h"
#include "cloister/memory/guest_address.h"

namespace cloister::confidential {

// The guest_memfd behind one range of a guest's private memory. This process
// never reads or writes it: a touch would be a SIGBUS.
//
// Holds address space, not memory: the slot's userspace address, and, where
// guest_memfd can be mapped (Linux 6.18), a window that only mincore(2) looks
// through. Thread-safe.
class PrivateRegion {
 public:
  // A guest_memfd for `range`, mappable where `vm` offers that.
  static absl::StatusOr<std::unique_ptr<PrivateRegion>> Create(
      const kvm::Vm& vm, const memory::GuestRange& range);
  PrivateRegion(const PrivateRegion&) = delete;
  PrivateRegion& operator=(const PrivateRegion&) = delete;
  ~PrivateRegion();

  const memory::GuestRange& range() const { return range_; }
  int fd() const { return file_.fd(); }
  // The slot's userspace address: reserved, inaccessible, of range().size().
  void* reserved_host() const { return reserved_; }
  // Whether KVM serves the slot from the file without the PRIVATE attribute.
  bool mappable() const { return file_.flags().mmap; }

  // Gives the pages of `part`, inside range(), back to the host.
  absl::Status Punch(const memory::GuestRange& part) const;

  // Calls `visit` for each maximal backed part of `part`, ascending. From
  // mincore where the file is mappable (which sees pages that a fault has
  // filled, all there are), else from cachestat(2) (Linux 6.5).
  absl::Status ForEachBacked(
      const memory::GuestRange& part,
      absl::FunctionRef<void(const memory::GuestRange&)> visit) const;

 private:
  PrivateRegion(memory::GuestRange range, kvm::GuestMemfd file)
      : range_(range), file_(std::move(file)) {}
  absl::Status Reserve();
  uint64_t OffsetOf(const memory::GuestRange& part) const {
    return part.start().value() - range_.start().value();
  }

  const memory::GuestRange range_;
  const kvm::GuestMemfd file_;
  void* reserved_ = nullptr;
  void* window_ = nullptr;
};

}  // namespace cloister::confidential

#endif  // CLOISTER_CONFIDENTIAL_PRIVATE_REGION_H_
