// SPDX-License-Identifier: Apache-2.0
#include "cloister/memory/shared_view.h"

#include "absl/strings/cord.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "cloister/base/bytes.h"
#include "cloister/base/status_macros.h"

namespace cloister::memory {
namespace {

// Where a status carries its ShareRefusal, as a decimal number.
constexpr absl::string_view kRefusalUrl = "cloister/memory/share-refusal";

absl::StatusCode CodeOf(ShareRefusal refusal) {
  switch (refusal) {
    case ShareRefusal::kPrivate:
    case ShareRefusal::kMixed:
    case ShareRefusal::kConverting:
      return absl::StatusCode::kFailedPrecondition;
    default:
      return absl::StatusCode::kInvalidArgument;
  }
}

}  // namespace

absl::string_view ShareRefusalName(ShareRefusal refusal) {
  switch (refusal) {
    case ShareRefusal::kEmpty:
      return "empty";
    case ShareRefusal::kWrapping:
      return "wrapping";
    case ShareRefusal::kNotRam:
      return "not-ram";
    case ShareRefusal::kAliased:
      return "aliased";
    case ShareRefusal::kPrivate:
      return "private";
    case ShareRefusal::kMixed:
      return "half-private";
    case ShareRefusal::kConverting:
      return "converting";
    case ShareRefusal::kMisaligned:
      return "misaligned";
  }
  return "unknown";
}

std::optional<ShareRefusal> ShareRefusalOf(const absl::Status& status) {
  absl::optional<absl::Cord> payload = status.GetPayload(kRefusalUrl);
  int value = 0;
  if (!payload.has_value() ||
      !absl::SimpleAtoi(std::string(*payload), &value)) {
    return std::nullopt;
  }
  return static_cast<ShareRefusal>(value);
}

Lease::Lease(SharedView* view, const GuestRange& range)
    : view_(view), range_(range) {
  view_->gauge_.Add(range_);
}

Lease::Lease(Lease&& other) noexcept
    : view_(std::exchange(other.view_, nullptr)), range_(other.range_) {}

Lease& Lease::operator=(Lease&& other) noexcept {
  if (this == &other) return *this;
  Release();
  view_ = std::exchange(other.view_, nullptr);
  range_ = other.range_;
  return *this;
}

void Lease::Release() {
  if (view_ == nullptr) return;
  // Before the lease ends, whoever waits for that may look.
  view_->gauge_.Subtract(range_);
  view_->leases_->Release(range_);
  view_ = nullptr;
}

absl::StatusOr<GuestAddress> Lease::At(uint64_t offset, uint64_t size) const {
  if (view_ == nullptr) {
    return absl::FailedPreconditionError("the lease was moved from");
  }
  if (offset > range_.size() || size > range_.size() - offset) {
    return absl::OutOfRangeError(absl::StrCat(size, " bytes at offset ", offset,
                                              " of a lease on ",
                                              range_.ToString()));
  }
  return GuestAddress(range_.start().value() + offset);
}

absl::Status Lease::Read(uint64_t offset, absl::Span<uint8_t> to) const {
  ASSIGN_OR_RETURN(GuestAddress from, At(offset, to.size()));
  if (to.empty()) return absl::OkStatus();
  return view_->memory_->Read(from, to);
}

absl::Status Lease::Write(uint64_t offset,
                          absl::Span<const uint8_t> from) const {
  ASSIGN_OR_RETURN(GuestAddress to, At(offset, from.size()));
  if (from.empty()) return absl::OkStatus();
  return view_->memory_->Write(to, from);
}

absl::Status Lease::GatherIovecs(uint64_t offset, uint64_t size,
                                 std::vector<struct iovec>* to) const {
  ASSIGN_OR_RETURN(GuestAddress start, At(offset, size));
  return view_->AppendIovecs(start, size, to);
}

absl::StatusOr<std::unique_ptr<SharedView>> SharedView::Create(
    GuestMemory* memory, const PageStateMap* states) {
  ASSIGN_OR_RETURN(std::unique_ptr<LeaseTable> leases, LeaseTable::Create());
  for (const MemoryRegion& region : memory->regions()) {
    RETURN_IF_ERROR(leases->Cover(region.range()));
  }
  return std::unique_ptr<SharedView>(
      new SharedView(memory, states, std::move(leases)));
}

absl::StatusOr<Lease> SharedView::Acquire(const GuestRange& range) {
  // What is not in memory at all must not reach the counters; and memory that
  // the map takes for RAM but that has no region could not be touched.
  if (!leases_->Covers(range) || !memory_->Contains(range)) {
    return Refuse(ShareRefusal::kNotRam, range.start(), range.size());
  }
  std::optional<ShareRefusal> refusal = leases_->TryAcquire(
      range, ShareRefusal::kConverting, [&] { return Check(range); });
  if (refusal.has_value()) {
    return Refuse(*refusal, range.start(), range.size());
  }
  return Lease(this, range);
}

absl::StatusOr<Lease> SharedView::Acquire(GuestAddress start, uint64_t size) {
  if (size == 0) return Refuse(ShareRefusal::kEmpty, start, size);
  absl::StatusOr<GuestRange> range = GuestRange::Create(start, size);
  if (!range.ok()) return Refuse(ShareRefusal::kWrapping, start, size);
  return Acquire(*range);
}

absl::StatusOr<Lease> SharedView::AcquireAligned(GuestAddress start,
                                                 uint64_t size) {
  if (!base::IsAligned(start.value(), size)) {
    return Refuse(ShareRefusal::kMisaligned, start, size);
  }
  return Acquire(start, size);
}

absl::Status SharedView::Read(GuestAddress from, absl::Span<uint8_t> to) {
  ASSIGN_OR_RETURN(Lease lease, Acquire(from, to.size()));
  return lease.Read(0, to);
}

absl::Status SharedView::Write(GuestAddress to,
                               absl::Span<const uint8_t> from) {
  ASSIGN_OR_RETURN(Lease lease, Acquire(to, from.size()));
  return lease.Write(0, from);
}

uint64_t SharedView::LeasedBytes() const {
  uint64_t bytes = 0;
  for (const MemoryRegion& region : memory_->regions()) {
    leases_->ForEachRun(region.range(),
                        [&bytes](const GuestRange& run, bool leased) {
                          if (leased) bytes += run.size();
                        });
  }
  return bytes;
}

std::optional<ShareRefusal> SharedView::Check(const GuestRange& range) const {
  if (states_->IsWholly(range, PageState::kShared)) return std::nullopt;
  std::array<bool, 4> seen = {};
  states_->ForEachRange(range, [&](const StateRange& part) {
    seen[static_cast<size_t>(part.state)] = true;
    return part.state != PageState::kNotRam;
  });
  auto has = [&](PageState state) { return seen[static_cast<size_t>(state)]; };
  if (has(PageState::kNotRam)) return ShareRefusal::kNotRam;
  if (has(PageState::kAliased)) return ShareRefusal::kAliased;
  if (!has(PageState::kShared)) return ShareRefusal::kPrivate;
  if (has(PageState::kPrivate)) return ShareRefusal::kMixed;
  // Shared by now: the guest is converting it while the device looks.
  return ShareRefusal::kConverting;
}

absl::Status SharedView::AppendIovecs(GuestAddress start, uint64_t size,
                                      std::vector<struct iovec>* iovecs) const {
  return memory_->AppendIovecs(HostAccess(), start, size, iovecs);
}

absl::Status SharedView::Refuse(ShareRefusal refusal, GuestAddress start,
                                uint64_t size) {
  refusals_[static_cast<size_t>(refusal)].fetch_add(1,
                                                    std::memory_order_relaxed);
  absl::Status status(
      CodeOf(refusal),
      absl::StrCat(size, " bytes of guest memory at ", start.ToString(), ": ",
                   ShareRefusalName(refusal)));
  status.SetPayload(kRefusalUrl,
                    absl::Cord(absl::StrCat(static_cast<int>(refusal))));
  return status;
}

}  // namespace cloister::memory
