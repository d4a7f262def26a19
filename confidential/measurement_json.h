// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_CONFIDENTIAL_MEASUREMENT_JSON_H_
#define CLOISTER_CONFIDENTIAL_MEASUREMENT_JSON_H_

#include <string>

#include "cloister/confidential/measurement.h"

namespace cloister::confidential {

// The report as one JSON object, indented, ending in a newline: "digest",
// "format", and "inputs", an array in hashing order (the shim, the start state,
// then every piece). Addresses and digests are strings in hexadecimal, sizes
// are numbers. The same report always gives the same text.
std::string MeasurementJson(const MeasurementReport& report);

}  // namespace cloister::confidential

#endif  // CLOISTER_CONFIDENTIAL_MEASUREMENT_JSON_H_
