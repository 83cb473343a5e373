// Formats: what the current port lists, and which of it meets a request.
#pragma once

#include "device.hpp"

#include <dmaflow/device.hpp>

#include <optional>
#include <string>
#include <vector>

namespace dmaflow::v4l2 {

std::vector<Format> list_formats(const Device& device);
/// The device's own code for a stream: several codes may mean the same, and a device lists what it likes.
/// EINVAL with what it has.
Result<Format> code_for(const Device& device, const StreamConfig& config);
std::vector<SizeRange> list_sizes(const Device& device, std::uint32_t code);
std::vector<IntervalRange> list_intervals(const Device& device, std::uint32_t code, Size size);

/// The interval in force (G_PARM, or that of the DV timings); 0/0 where the device says none.
Interval current_interval(const Device& device) noexcept;
/// Asks for an interval (S_PARM) and returns what it became.
Interval set_interval(const Device& device, Interval wanted) noexcept;

/// The streams the current port has that meet the request, best first: the size in force before the others, larger
/// before smaller; within a size in the order of the request's formats, else of the device's, compressed ones last.
/// @p native_only: only sizes that the device lists one by one. @p why: set where the device failed rather than
/// refused.
std::vector<StreamConfig> matching(const Device& device, const StreamRequest& request, bool native_only,
                                   std::optional<Error>& why);

/// For an error: "XR24 NV12 ...; 640x480 at 30/s, ...", cut to what fits.
std::string what_it_has(const Device& device);

}  // namespace dmaflow::v4l2
