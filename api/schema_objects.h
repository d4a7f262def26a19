// SPDX-License-Identifier: Apache-2.0
//
// The objects of the control API. Part of schema: include that instead.
#ifndef CLOISTER_API_SCHEMA_OBJECTS_H_
#define CLOISTER_API_SCHEMA_OBJECTS_H_

#include "cloister/api/schema.h"

namespace cloister::api {

// Bodies and responses; schema.cc says which endpoint has which.
extern const Object kActionObject;
extern const Object kAttributesObject;
extern const Object kBalloonObject;
extern const Object kBalloonStatisticsObject;
extern const Object kBalloonStatisticsUpdateObject;
extern const Object kBalloonUpdateObject;
extern const Object kBootSourceObject;
extern const Object kBytesObject;
extern const Object kCapabilitiesObject;
extern const Object kConfidentialObject;
extern const Object kConversionsObject;
extern const Object kConvertObject;
extern const Object kCpuConfigObject;
extern const Object kDriveObject;
extern const Object kDriveUpdateObject;
extern const Object kEntropyObject;
extern const Object kFaultObject;
extern const Object kInstanceObject;
extern const Object kLoggerObject;
extern const Object kMachineConfigObject;
extern const Object kMachineConfigUpdateObject;
extern const Object kMapObject;
extern const Object kMeasurementObject;
extern const Object kMetricsObject;
extern const Object kMetricsTargetObject;
extern const Object kNetworkObject;
extern const Object kNetworkUpdateObject;
extern const Object kOpenApiObject;
extern const Object kPolicyObject;
extern const Object kSerialObject;
extern const Object kVersionObject;
extern const Object kVmConfigObject;
extern const Object kVmStateObject;
extern const Object kVsockObject;

}  // namespace cloister::api

#endif  // CLOISTER_API_SCHEMA_OBJECTS_H_
