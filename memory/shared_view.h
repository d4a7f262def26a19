// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_MEMORY_SHARED_VIEW_H_
#define CLOISTER_MEMORY_SHARED_VIEW_H_

#include <sys/uio.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <type_traits>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "cloister/memory/guest_address.h"
#include "cloister/memory/guest_memory.h"
#include "cloister/memory/lease_gauge.h"
#include "cloister/memory/lease_table.h"
#include "cloister/memory/page_state_map.h"

namespace cloister::memory {

// Why SharedView refused a range. Devices count by it.
enum class ShareRefusal {
  kEmpty,       // no bytes
  kWrapping,    // runs past the end of the address space
  kNotRam,      // some page is not RAM
  kAliased,     // some page is aliased: never offered
  kPrivate,     // every page is private
  kMixed,       // some pages are private, others shared
  kConverting,  // a conversion is taking some page away right now
  kMisaligned,  // an atomic access that is not naturally aligned
};
inline constexpr size_t kShareRefusalCount = 8;

// "private", "half-private", "not-ram", ...
absl::string_view ShareRefusalName(ShareRefusal refusal);

// The refusal behind an error of SharedView or Lease; nullopt if `status` comes
// from elsewhere.
std::optional<ShareRefusal> ShareRefusalOf(const absl::Status& status);

class SharedView;

// The right to touch one range of shared guest memory. While it lives, the
// pages are not taken away: a conversion waits, or gives up waiting and frees
// the host's copy only after this is gone.
//
// Take it before looking at the memory and keep it until after the last byte
// (for asynchronous I/O: until completion). Move-only; may move between
// threads, and const methods may run on several. Must not outlive the view.
class Lease {
 public:
  Lease(Lease&& other) noexcept;
  Lease& operator=(Lease&& other) noexcept;
  ~Lease() { Release(); }

  const GuestRange& range() const { return range_; }

  // As GuestMemory's, relative to the start of the range. OutOfRange, touching
  // nothing, for what is not inside the range.
  absl::Status Read(uint64_t offset, absl::Span<uint8_t> to) const;
  absl::Status Write(uint64_t offset, absl::Span<const uint8_t> from) const;
  template <typename T>
  absl::StatusOr<T> Load(uint64_t offset, std::memory_order order) const;
  template <typename T>
  absl::Status Store(uint64_t offset, std::type_identity_t<T> value,
                     std::memory_order order) const;

  // Appends where the host has `size` bytes at `offset`, one element for each
  // region of memory that they touch. What they point to may be touched as long
  // as this lease lives, wherever it is moved. OutOfRange as above.
  absl::Status GatherIovecs(uint64_t offset, uint64_t size,
                            std::vector<struct iovec>* to) const;

 private:
  friend class SharedView;
  // `range` is leased already; the destructor ends that.
  Lease(SharedView* view, const GuestRange& range);
  absl::StatusOr<GuestAddress> At(uint64_t offset, uint64_t size) const;
  void Release();

  SharedView* view_;  // null once moved from
  GuestRange range_;
};

// The only way from a device, or from anything but the loader, to guest RAM:
// what the guest shares, and nothing else.
//
// A range that is not wholly shared is an error with a ShareRefusal, which the
// caller reports to its driver. Guest memory changes under the reader's eyes:
// read once, validate the copy. Thread-safe; lock-free, except that a lease
// which ends while some conversion waits for leases takes a lock to wake it.
class SharedView {
 public:
  // Both must outlive the view. ResourceExhausted without memory for counters.
  static absl::StatusOr<std::unique_ptr<SharedView>> Create(
      GuestMemory* memory, const PageStateMap* states);
  SharedView(const SharedView&) = delete;
  SharedView& operator=(const SharedView&) = delete;

  // A lease on all of the range. FailedPrecondition if the guest does not share
  // all of it (kPrivate, kMixed, kConverting), InvalidArgument if no guest may
  // expect that (the other refusals).
  absl::StatusOr<Lease> Acquire(const GuestRange& range);
  absl::StatusOr<Lease> Acquire(GuestAddress start, uint64_t size);

  // One access under a lease of its own. Errors of Acquire and of GuestMemory.
  absl::Status Read(GuestAddress from, absl::Span<uint8_t> to);
  absl::Status Write(GuestAddress to, absl::Span<const uint8_t> from);
  template <typename T>
  absl::StatusOr<T> Load(GuestAddress from, std::memory_order order) {
    absl::StatusOr<Lease> lease = AcquireAligned(from, sizeof(T));
    if (!lease.ok()) return std::move(lease).status();
    return lease->Load<T>(0, order);
  }
  template <typename T>
  absl::Status Store(GuestAddress to, std::type_identity_t<T> value,
                     std::memory_order order) {
    absl::StatusOr<Lease> lease = AcquireAligned(to, sizeof(T));
    if (!lease.ok()) return std::move(lease).status();
    return lease->Store<T>(0, value, order);
  }

  // How often each reason was given.
  uint64_t refusals(ShareRefusal refusal) const {
    return refusals_[static_cast<size_t>(refusal)].load(
        std::memory_order_relaxed);
  }

  // Bytes of pages that are leased now. For tests: looks at every page.
  uint64_t LeasedBytes() const;
  // The sum of the sizes of the leases that exist, in bytes. For metrics: as
  // quick for much memory as for little, and takes no lock.
  uint64_t LeasedSum() const { return gauge_.Total(); }

 private:
  friend class Lease;
  friend class ConversionBroker;
  friend class PendingPrivate;
  friend class SharedViewTestPeer;

  SharedView(GuestMemory* memory, const PageStateMap* states,
             std::unique_ptr<LeaseTable> leases)
      : memory_(memory), states_(states), leases_(std::move(leases)) {}

  absl::StatusOr<Lease> AcquireAligned(GuestAddress start, uint64_t size);
  // Why `range` may not be leased in its present state; nullopt if it may.
  std::optional<ShareRefusal> Check(const GuestRange& range) const;
  absl::Status Refuse(ShareRefusal refusal, GuestAddress start, uint64_t size);
  absl::Status AppendIovecs(GuestAddress start, uint64_t size,
                            std::vector<struct iovec>* iovecs) const;
  LeaseTable& leases() { return *leases_; }

  GuestMemory* const memory_;
  const PageStateMap* const states_;
  const std::unique_ptr<LeaseTable> leases_;
  LeaseGauge gauge_;
  std::array<std::atomic<uint64_t>, kShareRefusalCount> refusals_ = {};
};

template <typename T>
absl::StatusOr<T> Lease::Load(uint64_t offset, std::memory_order order) const {
  absl::StatusOr<GuestAddress> from = At(offset, sizeof(T));
  if (!from.ok()) return std::move(from).status();
  return view_->memory_->Load<T>(*from, order);
}

template <typename T>
absl::Status Lease::Store(uint64_t offset, std::type_identity_t<T> value,
                          std::memory_order order) const {
  absl::StatusOr<GuestAddress> to = At(offset, sizeof(T));
  if (!to.ok()) return std::move(to).status();
  return view_->memory_->Store<T>(*to, value, order);
}

}  // namespace cloister::memory

#endif  // CLOISTER_MEMORY_SHARED_VIEW_H_
