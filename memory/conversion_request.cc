// SPDX-License-Identifier: Apache-2.0
#include "cloister/memory/conversion_request.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "cloister/base/status_macros.h"

namespace cloister::memory {
namespace {

constexpr uint64_t kEncryptedBit = uint64_t{1} << 4;
constexpr uint64_t kPageSizeMask = 0xf;
constexpr uint64_t kReservedBits = ~(kEncryptedBit | kPageSizeMask);

// The hint's encoding: 0 for 4 KiB, 1 for 2 MiB, 2 for 1 GiB. Others mean
// nothing to us, and a hint is no reason to refuse.
uint64_t PageSizeOf(uint64_t hint) {
  if (hint == 1) return uint64_t{2} << 20;
  if (hint == 2) return uint64_t{1} << 30;
  return kPageSize;
}

// [start, last] as a range; the caller knows that it is one.
GuestRange FromTo(GuestAddress start, GuestAddress last) {
  return *GuestRange::Create(start, last.value() - start.value() + 1);
}

}  // namespace

absl::StatusOr<MapGpaRange> DecodeMapGpaRange(uint64_t gpa, uint64_t npages,
                                              uint64_t attributes) {
  if ((attributes & kReservedBits) != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("reserved attributes 0x", absl::Hex(attributes)));
  }
  if (npages > (UINT64_MAX >> kPageShift)) {
    return absl::InvalidArgumentError(
        absl::StrCat(npages, " pages are more than there are addresses"));
  }
  ASSIGN_OR_RETURN(
      GuestRange range,
      GuestRange::CreatePageAligned(GuestAddress(gpa), npages << kPageShift));
  bool encrypted = (attributes & kEncryptedBit) != 0;
  return MapGpaRange{range,
                     encrypted ? PageState::kPrivate : PageState::kShared,
                     PageSizeOf(attributes & kPageSizeMask)};
}

absl::StatusOr<std::vector<GuestRange>> CoalesceRanges(
    absl::Span<const GuestRange> ranges, uint64_t* merges) {
  if (ranges.empty()) return absl::InvalidArgumentError("no ranges");
  for (const GuestRange& range : ranges) {
    if (!range.IsPageAligned()) {
      return absl::InvalidArgumentError(
          absl::StrCat(range.ToString(), " is not page-aligned"));
    }
    if (range.last().value() >= PageStateMap::kEndAddress) {
      return absl::InvalidArgumentError(
          absl::StrCat(range.ToString(), " is above all memory"));
    }
  }
  std::vector<GuestRange> sorted(ranges.begin(), ranges.end());
  std::sort(sorted.begin(), sorted.end(),
            [](const GuestRange& a, const GuestRange& b) {
              return a.start() < b.start();
            });
  std::vector<GuestRange> result = {sorted.front()};
  for (size_t i = 1; i < sorted.size(); ++i) {
    GuestRange& back = result.back();
    const GuestRange& next = sorted[i];
    if (next.start().value() > back.last().value() + 1) {
      result.push_back(next);
      continue;
    }
    back = FromTo(back.start(), std::max(back.last(), next.last()));
    ++*merges;
  }
  return result;
}

absl::StatusOr<RequestEffect> CheckRequest(const PageStateMap& states,
                                           absl::Span<const GuestRange> ranges,
                                           PageState to) {
  RequestEffect effect;
  for (const GuestRange& range : ranges) {
    // In batches, so that nobody's old map has to be kept for long.
    StateWalker walker(&states, range);
    for (auto batch = walker.Next(); !batch.empty(); batch = walker.Next()) {
      for (const StateRange& part : batch) {
        if (part.state == PageState::kNotRam) {
          return absl::InvalidArgumentError(absl::StrCat(
              part.range.ToString(), " in ", range.ToString(), " is not RAM"));
        }
        uint64_t& sum = part.state == PageState::kAliased ? effect.aliased_bytes
                        : part.state == to                ? effect.same_bytes
                                           : effect.changed_bytes;
        sum += part.range.size();
      }
    }
  }
  return effect;
}

std::vector<GuestRange> ConversionWalker::Next(size_t limit) {
  const PageState from =
      to_ == PageState::kShared ? PageState::kPrivate : PageState::kShared;
  std::vector<GuestRange> batch;
  while (index_ < ranges_.size()) {
    const GuestRange& range = ranges_[index_];
    const GuestRange rest =
        FromTo(GuestAddress(range.start().value() + offset_), range.last());
    bool done = states_->ForEachRange(rest, [&](const StateRange& part) {
      if (part.state != from) return true;
      if (batch.size() == limit) {
        offset_ = *part.range.start().OffsetFrom(range.start());
        return false;
      }
      batch.push_back(part.range);
      return true;
    });
    if (!done) break;
    ++index_;
    offset_ = 0;
  }
  return batch;
}

std::vector<StateRange> StateWalker::Next(size_t limit) {
  std::vector<StateRange> batch;
  if (!rest_.has_value()) return batch;
  map_->ForEachRange(*rest_, [&](const StateRange& part) {
    batch.push_back(part);
    return batch.size() < limit;
  });
  const GuestAddress last = rest_->last();
  const GuestAddress done = batch.back().range.last();
  rest_.reset();
  if (done < last) rest_ = FromTo(GuestAddress(done.value() + 1), last);
  return batch;
}

GuestRange ChunkAt(const GuestRange& range, uint64_t offset, uint64_t chunk) {
  const uint64_t start = range.start().value() + offset;
  const uint64_t to_boundary = chunk - (start & (chunk - 1));
  return *GuestRange::Create(GuestAddress(start),
                             std::min(range.size() - offset, to_boundary));
}

}  // namespace cloister::memory
