// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_API_ALL_OR_NONE_H_
#define CLOISTER_API_ALL_OR_NONE_H_

#include <cstdint>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "cloister/memory/conversion_broker.h"
#include "cloister/memory/conversion_types.h"
#include "cloister/memory/guest_address.h"
#include "cloister/memory/page_state_map.h"

namespace cloister::api {

// ConversionBroker::ConvertForHost, and what it had done before an error is
// taken back: then the pages have the states that they had, but not what was in
// those that lost it on the way (ConversionContent::kLost). An error says which
// of the two happened and, if taking back failed, what stays converted and why.
//
// A conversion of the guest's own that comes between the two may be taken back
// with ours; both may convert such pages at any time. `states` is the broker's.
absl::StatusOr<uint64_t> ConvertAllOrNone(
    memory::ConversionBroker& broker, const memory::PageStateMap& states,
    absl::Span<const memory::GuestRange> ranges, memory::PageState to,
    memory::HostConversionReason reason);

}  // namespace cloister::api

#endif  // CLOISTER_API_ALL_OR_NONE_H_
