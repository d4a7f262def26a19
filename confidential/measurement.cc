// SPDX-License-Identifier: Apache-2.0
#include "cloister/confidential/measurement.h"

#include "absl/strings/str_cat.h"
#include "cloister/base/status_macros.h"
#include "cloister/boot/shim/layout.h"
#include "cloister/boot/shim/shim_image.h"

namespace cloister::confidential {
namespace {

MeasurementReport ReportOf(absl::Span<const uint8_t> image,
                           const shim::Handover& handover) {
  MeasurementReport report;
  report.format = shim::kDigestFormat;
  report.shim_size = image.size();
  report.shim = shim::ImageDigest(image.data(), image.size());
  report.digest = shim::LaunchDigest(report.shim, report.shim_size, handover);
  report.inputs = handover;
  return report;
}

}  // namespace

absl::StatusOr<MeasurementReport> Measure(absl::Span<const uint8_t> image,
                                          const shim::LaunchOptions& options) {
  if (image.size() <= shim::kDigestSlot + shim::kDigestSize ||
      image.size() > shim::kImageMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("measurement: a shim image of ", image.size(), " bytes"));
  }
  ASSIGN_OR_RETURN(shim::Handover handover, shim::MakeHandover(options));
  return ReportOf(image, handover);
}

absl::StatusOr<MeasurementReport> Measure(const shim::LaunchOptions& options) {
  return Measure(shim::ShimImage(), options);
}

MeasurementReport MeasureHandover(const shim::Handover& handover) {
  return ReportOf(shim::ShimImage(), handover);
}

}  // namespace cloister::confidential
