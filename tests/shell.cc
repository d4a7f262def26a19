// SPDX-License-Identifier: Apache-2.0
#include "cloister/tests/shell.h"

#include <chrono>

#include "absl/strings/ascii.h"
#include "cloister/base/status_matchers.h"
#include "cloister/tests/guest_process.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::tests {

std::string Sh(const std::string& command) {
  auto process = GuestProcess::Start({"sh", "-euc", command});
  if (!process.ok()) {
    ADD_FAILURE() << command << "\n" << process.status();
    return "";
  }
  EXPECT_THAT((*process)->Wait(std::chrono::seconds(300)),
              base::IsOkAndHolds(0))
      << command << "\n"
      << (*process)->output();
  return std::string(absl::StripAsciiWhitespace((*process)->output()));
}

}  // namespace cloister::tests
