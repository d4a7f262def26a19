// SPDX-License-Identifier: Apache-2.0
#include "cloister/api/all_or_none.h"

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "cloister/memory/conversion_request.h"

namespace cloister::api {
namespace {

using memory::GuestRange;
using memory::PageState;
using memory::StateRange;

// The parts of `ranges` that are in `state`.
std::vector<GuestRange> PartsIn(const memory::PageStateMap& states,
                                absl::Span<const GuestRange> ranges,
                                PageState state) {
  std::vector<GuestRange> parts;
  for (const GuestRange& range : ranges) {
    states.ForEachRange(range, [&](const StateRange& part) {
      if (part.state == state) parts.push_back(part.range);
      return true;
    });
  }
  return parts;
}

uint64_t Sum(absl::Span<const GuestRange> ranges) {
  uint64_t bytes = 0;
  for (const GuestRange& range : ranges) bytes += range.size();
  return bytes;
}

PageState OtherThan(PageState state) {
  return state == PageState::kShared ? PageState::kPrivate : PageState::kShared;
}

}  // namespace

absl::StatusOr<uint64_t> ConvertAllOrNone(memory::ConversionBroker& broker,
                                          const memory::PageStateMap& states,
                                          absl::Span<const GuestRange> ranges,
                                          PageState to,
                                          memory::HostConversionReason reason) {
  const PageState from = OtherThan(to);
  // As one range each: what overlaps is looked at once, however often a request
  // names it.
  uint64_t merges = 0;
  absl::StatusOr<std::vector<GuestRange>> whole =
      memory::CoalesceRanges(ranges, &merges);
  const std::vector<GuestRange> before =
      whole.ok() ? PartsIn(states, *whole, from) : std::vector<GuestRange>();
  absl::StatusOr<uint64_t> bytes = broker.ConvertForHost(ranges, to, reason);
  if (bytes.ok()) return bytes;
  const std::vector<GuestRange> done = PartsIn(states, before, to);
  if (done.empty()) return bytes;
  const absl::Status undone =
      broker.ConvertForHost(done, from, reason).status();
  const std::vector<GuestRange> left = PartsIn(states, done, to);
  std::string message(bytes.status().message());
  if (left.empty()) {
    absl::StrAppend(&message, "; taken back");
  } else {
    absl::StrAppend(&message, "; ", Sum(left), " bytes from ",
                    left.front().start().ToString(), " on stay ",
                    memory::PageStateName(to), ": ", undone.message());
  }
  return absl::Status(bytes.status().code(), message);
}

}  // namespace cloister::api
