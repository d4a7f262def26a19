// SPDX-License-Identifier: Apache-2.0
#include "cloister/boot/shim/handover_writer.h"

#include <libfdt.h>

#include <cstdint>
#include <vector>

#include "cloister/base/status_matchers.h"
#include "cloister/boot/shim/handover_reader.h"
#include "gtest/gtest.h"

namespace cloister::shim {
namespace {

using ::cloister::base::StatusIs;

Handover Sample() {
  Handover handover;
  handover.c_bit = 39;
  handover.shim = 16 << 20;
  handover.entry = 0x200100;
  handover.boot_params = 0x100000;
  handover.vcpus = 2;
  handover.hypercalls = 1;
  handover.ram_count = 1;
  handover.ram[0] = {0, 64 << 20};
  handover.piece_count = 1;
  handover.pieces[0] = {kKernelSegmentType, 0x200000, 5, 0x9000, {}};
  return handover;
}

// libfdt is the reference: what it does not read is no device tree.
TEST(HandoverWriterTest, WritesATreeThatLibfdtReads) {
  ASSERT_OK_AND_ASSIGN(const std::vector<uint8_t> tree,
                       WriteHandover(Sample()));
  ASSERT_EQ(fdt_check_full(tree.data(), tree.size()), 0);
  EXPECT_EQ(fdt_totalsize(tree.data()), tree.size());
  EXPECT_LE(tree.size(), kHandoverMax);
}

TEST(HandoverWriterTest, EveryFieldReachesTheReader) {
  const Handover in = Sample();
  ASSERT_OK_AND_ASSIGN(const std::vector<uint8_t> tree, WriteHandover(in));
  Handover out;
  ASSERT_TRUE(ReadHandover(tree.data(), tree.size(), &out));
  EXPECT_EQ(out.c_bit, in.c_bit);
  EXPECT_EQ(out.shim, in.shim);
  EXPECT_EQ(out.entry, in.entry);
  EXPECT_EQ(out.boot_params, in.boot_params);
  EXPECT_EQ(out.vcpus, in.vcpus);
  EXPECT_EQ(out.hypercalls, in.hypercalls);
  ASSERT_EQ(out.ram_count, 1u);
  EXPECT_EQ(out.ram[0].size, in.ram[0].size);
  ASSERT_EQ(out.piece_count, 1u);
  EXPECT_EQ(out.pieces[0].type, in.pieces[0].type);
  EXPECT_EQ(out.pieces[0].gpa, in.pieces[0].gpa);
  EXPECT_EQ(out.pieces[0].length, in.pieces[0].length);
  EXPECT_EQ(out.pieces[0].memory_size, in.pieces[0].memory_size);
}

TEST(HandoverWriterTest, TheSameIsAlwaysWrittenTheSame) {
  EXPECT_EQ(*WriteHandover(Sample()), *WriteHandover(Sample()));
  Handover other = Sample();
  other.pieces[0].digest.bytes[31] ^= 1;
  EXPECT_NE(*WriteHandover(other), *WriteHandover(Sample()));
}

TEST(HandoverWriterTest, RefusesMoreThanTheReaderTakes) {
  Handover in = Sample();
  in.piece_count = kMaxPieces + 1;
  EXPECT_THAT(WriteHandover(in), StatusIs(absl::StatusCode::kInvalidArgument));
  in = Sample();
  in.ram_count = kMaxRamRanges + 1;
  EXPECT_THAT(WriteHandover(in), StatusIs(absl::StatusCode::kInvalidArgument));
}

TEST(HandoverWriterTest, TheMostThatTheReaderTakesFits) {
  Handover in = Sample();
  in.piece_count = kMaxPieces;
  in.ram_count = kMaxRamRanges;
  ASSERT_OK_AND_ASSIGN(const std::vector<uint8_t> tree, WriteHandover(in));
  EXPECT_LE(tree.size(), kHandoverMax);
}

}  // namespace
}  // namespace cloister::shim
