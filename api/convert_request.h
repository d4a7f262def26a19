// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_API_CONVERT_REQUEST_H_
#define CLOISTER_API_CONVERT_REQUEST_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "cloister/api/json.h"
#include "cloister/memory/conversion_types.h"
#include "cloister/memory/guest_address.h"
#include "cloister/memory/page_state_map.h"

namespace cloister::api {

// The body of POST /memory/convert, as the broker takes it.
struct ConvertRequest {
  std::vector<memory::GuestRange> ranges;
  memory::PageState to = memory::PageState::kPrivate;
  memory::HostConversionReason reason =
      memory::HostConversionReason::kExchangeWindow;
};

// Reads a Convert object (of the schema). InvalidArgument for ranges that are
// not whole pages or wrap, and for ranges that go to different states.
absl::StatusOr<ConvertRequest> ConvertRequestOf(const Json& body);

// What was done of it: a Converted object (of the schema).
Json ConvertedJson(const ConvertRequest& request, uint64_t bytes);

// Whole pages from `gpa` on. InvalidArgument naming the fields.
absl::StatusOr<memory::GuestRange> PageRangeOf(uint64_t gpa, uint64_t len);

}  // namespace cloister::api

#endif  // CLOISTER_API_CONVERT_REQUEST_H_
