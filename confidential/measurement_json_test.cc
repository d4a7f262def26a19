// SPDX-License-Identifier: Apache-2.0
#include "cloister/confidential/measurement_json.h"

#include <string>

#include "cloister/base/status_matchers.h"
#include "cloister/confidential/measurement.h"
#include "cloister/confidential/sample_launch.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::confidential {
namespace {

using ::cloister::boot::PieceType;
using ::cloister::memory::GuestAddress;
using ::cloister::memory::GuestRange;
using ::testing::HasSubstr;
using ::testing::Not;

TEST(MeasurementJsonTest, ListsTheInputsInHashingOrder) {
  ASSERT_OK_AND_ASSIGN(MeasurementReport report, Measure(SampleLaunch()));
  const std::string hash =
      "\"digest\": \"" + shim::DigestHex(report.shim) + "\"";
  const std::string expected =
      "{\n"
      "  \"digest\": \"" +
      shim::DigestHex(report.digest) +
      "\",\n"
      "  \"format\": 1,\n"
      "  \"inputs\": [\n"
      "    {\"type\": \"shim\", \"length\": \"" +
      GuestAddress(report.shim_size).ToString() + "\", " + hash +
      "},\n"
      "    {\"type\": \"start state\", \"shim\": \"0x1000000\", "
      "\"entry\": \"0x200000\", \"boot_params\": \"0x100000\", "
      "\"vcpus\": 1, \"hypercalls\": true, \"platform\": "
      "\"" +
      shim::DigestHex(report.inputs.platform) +
      "\", "
      "\"ram\": [{\"gpa\": \"0x0\", \"size\": \"0x2000000\"}]},\n"
      // SHA-256 of 01 02 03 04 05, checked with an independent tool.
      "    {\"type\": \"kernel segment\", \"gpa\": \"0x200000\", "
      "\"length\": \"0x5\", \"memory_size\": \"0x9000\", \"digest\": "
      "\"74f81fe167d99b4cb41d6d0ccda82278caee9f3e2f25d5e5a3936ff3dcec60d0\"},"
      "\n";
  std::string json = MeasurementJson(report);
  EXPECT_EQ(json.substr(0, expected.size()), expected);
  EXPECT_THAT(json, HasSubstr("\"type\": \"ACPI tables\", \"gpa\": "
                              "\"0x103000\", \"length\": \"0x1\","));
  EXPECT_EQ(json.substr(json.size() - 9), "\"}\n  ]\n}\n");
}

TEST(MeasurementJsonTest, TheSameReportIsTheSameTextAndOthersAreNot) {
  ASSERT_OK_AND_ASSIGN(MeasurementReport report, Measure(SampleLaunch()));
  const std::string text = MeasurementJson(report);
  EXPECT_EQ(MeasurementJson(report), text);
  shim::LaunchOptions options = SampleLaunch();
  options.hypercalls = false;
  ASSERT_OK_AND_ASSIGN(report, Measure(options));
  EXPECT_THAT(MeasurementJson(report), HasSubstr("\"hypercalls\": false"));
  EXPECT_THAT(text, Not(HasSubstr("\"hypercalls\": false")));
}

// Several ranges of RAM, and one piece alone: where commas go.
TEST(MeasurementJsonTest, ListsOfAnyLengthAreLists) {
  shim::LaunchOptions options = SampleLaunch();
  options.ram.push_back(
      *GuestRange::Create(GuestAddress(uint64_t{4} << 30), kMiB));
  options.pieces.resize(1);
  options.pieces.push_back(
      MakePiece(PieceType::kBootParams, kMiB, {9, 10, 11, 12}, 0x1000));
  ASSERT_OK_AND_ASSIGN(MeasurementReport report, Measure(options));
  const std::string text = MeasurementJson(report);
  EXPECT_THAT(text,
              HasSubstr("[{\"gpa\": \"0x0\", \"size\": \"0x2000000\"}, "
                        "{\"gpa\": \"0x100000000\", \"size\": \"0x100000\"}]"));
  EXPECT_THAT(text, Not(HasSubstr("},\n  ]")));
  EXPECT_THAT(text, Not(HasSubstr("}\n    {")));
}

}  // namespace
}  // namespace cloister::confidential
