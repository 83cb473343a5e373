// Helpers that all kinds of rows and columns share.
#pragma once

#include "probe_parties.hpp"

#include <dmaflow/dmaflow.hpp>

/// For devices that report no sizes.
inline constexpr dmaflow::Size usual_size{640, 480};

/// "card0" of "/dev/dri/card0".
inline std::string file_name(const std::string& path) { return path.substr(path.rfind('/') + 1); }

/// Fills in the linear layout without padding, for a user that does not state its strides. Other modifiers have no
/// such layout and are unchanged.
dmaflow::StreamConfig described(dmaflow::StreamConfig config);

/// For a device that exists but cannot be used.
std::unique_ptr<Maker> no_maker(Party party, const dmaflow::Error& why);
std::unique_ptr<User> no_user(Party party, const dmaflow::Error& why);

/// A row and a column for a camera, a column for a video output.
void add_camera(Parties& all, const dmaflow::v4l2::DeviceInfo& info);
void add_output(Parties& all, const dmaflow::v4l2::DeviceInfo& info);
