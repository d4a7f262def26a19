// SPDX-License-Identifier: Apache-2.0
#include "cloister/vmm/balloon_memory.h"

#include "absl/strings/str_cat.h"
#include "cloister/base/status_macros.h"

namespace cloister::vmm {

using memory::GuestAddress;
using memory::GuestRange;
using memory::PageState;
using memory::StateRange;

absl::StatusOr<std::vector<StateRange>> BalloonMemory::Parts(
    const GuestRange& range) const {
  if (!range.IsPageAligned()) {
    return absl::InvalidArgumentError(
        absl::StrCat(range.ToString(), " is not whole pages"));
  }
  for (const GuestRange& window : windows_) {
    if (window.Overlaps(range)) {
      return absl::InvalidArgumentError(
          absl::StrCat(range.ToString(), " is part of a window"));
    }
  }
  std::vector<StateRange> parts;
  const bool ordinary =
      states_->ForEachRange(range, [&parts](const StateRange& part) {
        parts.push_back(part);
        return part.state == PageState::kPrivate ||
               part.state == PageState::kShared;
      });
  if (!ordinary) {
    return absl::InvalidArgumentError(absl::StrCat(
        range.ToString(), " is not wholly the guest's ordinary RAM"));
  }
  return parts;
}

absl::StatusOr<uint64_t> BalloonMemory::GiveUp(const GuestRange& range) {
  ASSIGN_OR_RETURN(std::vector<StateRange> parts, Parts(range));
  if (broker_ != nullptr) {
    RETURN_IF_ERROR(broker_->GuestGaveUp(range));
    RETURN_IF_ERROR(broker_->FreeGivenUp(range));
    return range.size();
  }
  for (const StateRange& part : parts) {
    RETURN_IF_ERROR(backend_->FreeShared(part.range));
  }
  return range.size();
}

absl::Status BalloonMemory::TakeBack(const GuestRange& range) {
  RETURN_IF_ERROR(Parts(range).status());
  return broker_ == nullptr ? absl::OkStatus() : broker_->GuestTookBack(range);
}

absl::Status BalloonMemory::TakeBackAll() {
  if (broker_ == nullptr ||
      broker_->phase() != memory::ConversionPhase::kRunning) {
    return absl::OkStatus();  // there is nothing, or nobody, to give it to
  }
  const GuestRange everything = *GuestRange::CreatePageAligned(
      GuestAddress(0), memory::PageStateMap::kEndAddress);
  absl::Status first;
  states_->ForEachRange(everything, [&](const StateRange& part) {
    if (part.state != PageState::kPrivate && part.state != PageState::kShared) {
      return true;
    }
    const absl::Status status = broker_->GuestTookBack(part.range);
    if (first.ok()) first = status;
    return true;
  });
  return first;
}

absl::StatusOr<uint64_t> BalloonMemory::Discard(const GuestRange& range) {
  absl::StatusOr<uint64_t> freed = GiveUp(range);
  const absl::Status back = TakeBack(range);
  if (freed.ok() && !back.ok()) return back;
  return freed;
}

}  // namespace cloister::vmm
