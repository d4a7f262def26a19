// SPDX-License-Identifier: Apache-2.0
#include "cloister/api/convert_request.h"

#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "cloister/base/status_macros.h"

namespace cloister::api {

using memory::GuestAddress;
using memory::GuestRange;

absl::StatusOr<GuestRange> PageRangeOf(uint64_t gpa, uint64_t len) {
  auto range = GuestRange::CreatePageAligned(GuestAddress(gpa), len);
  if (range.ok()) return range;
  return absl::InvalidArgumentError(
      absl::StrCat("gpa, len: ", range.status().message()));
}

absl::StatusOr<ConvertRequest> ConvertRequestOf(const Json& body) {
  ConvertRequest request;
  const Json& first = body["ranges"][0]["to"];
  for (const Json& entry : body["ranges"]) {
    if (entry["to"] != first) {
      return absl::InvalidArgumentError(
          "ranges: \"to\" must be the same in all");
    }
    ASSIGN_OR_RETURN(GuestRange range,
                     PageRangeOf(entry["gpa"].get<uint64_t>(),
                                 entry["len"].get<uint64_t>()));
    request.ranges.push_back(range);
  }
  if (first == "shared") request.to = memory::PageState::kShared;
  if (body.value("reason", "exchange-window") == "given-up") {
    request.reason = memory::HostConversionReason::kGivenUp;
  }
  return request;
}

Json ConvertedJson(const ConvertRequest& request, uint64_t bytes) {
  Json ranges = Json::array();
  for (const GuestRange& range : request.ranges) {
    ranges.push_back({{"gpa", HexText(range.start().value())},
                      {"len", HexText(range.size())}});
  }
  return {{"ranges", std::move(ranges)},
          {"to", std::string(memory::PageStateName(request.to))},
          {"bytes", bytes}};
}

}  // namespace cloister::api
