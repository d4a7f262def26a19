// SPDX-License-Identifier: Apache-2.0
//
// A program that talks to a running VM: says what its memory is, then prints
// events as they come. Links nothing of the monitor but the client and its
// schema.
//
//   rest_client SOCKET [EVENTS]
#include <cstdio>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/numbers.h"
#include "absl/strings/string_view.h"
#include "cloister/api/client.h"

int main(int argc, char** argv) {
  uint32_t events = 0;
  if (argc < 2 || (argc > 2 && !absl::SimpleAtoi(argv[2], &events))) {
    std::fprintf(stderr, "usage: rest_client SOCKET [EVENTS]\n");
    return 2;
  }
  auto client = cloister::api::Client::Connect(argv[1]);
  if (!client.ok()) {
    std::fprintf(stderr, "%s\n", client.status().ToString().c_str());
    return 1;
  }
  // Operations go by their ids in the schema (docs/api_reference.md).
  for (const char* operation :
       {"describeInstance", "getConfidential", "getConversions"}) {
    absl::StatusOr<std::string> answer = (*client)->Invoke(operation);
    // Before InstanceStart, say, there are no conversions: that is no error of
    // this program's.
    std::printf("%s: %s\n", operation,
                answer.ok() ? answer->c_str()
                            : std::string(answer.status().message()).c_str());
  }
  if (events == 0) return 0;
  const absl::Status end =
      (*client)->Stream("/events", [&](absl::string_view line) {
        std::printf("%s\n", std::string(line).c_str());
        return --events > 0;
      });
  return end.ok() ? 0 : 1;
}
