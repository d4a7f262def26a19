// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_TESTS_BAD_RUN_H_
#define CLOISTER_TESTS_BAD_RUN_H_

#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace cloister::tests {

// A test of what a user's mistakes get from `cloister run`. Skipped where this
// user may not open /dev/kvm.
class BadRunTest : public ::testing::Test {
 protected:
  void SetUp() override;

  // A new file of this test's folder; one of that name is replaced, not
  // written to.
  std::string File(const std::string& name, const std::string& content);

  // A kernel that loads but never gets to run here.
  std::string GoodKernel();

  // `cloister run` with `options` leaves with `code`, no core file, and a
  // single line of output that has all of `named` in it.
  void ExpectOneLine(const std::vector<std::string>& options, int code,
                     const std::vector<std::string>& named);
};

}  // namespace cloister::tests

#endif  // CLOISTER_TESTS_BAD_RUN_H_
