// Raw video files: how the frames lie in them, and the JSON beside them that says so.
#pragma once

#include <dmaflow/device.hpp>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace dmaflow::raw_file {

/// FFmpeg's name of the pixel format with the same bytes (`ffplay -pixel_format`); empty where it has none.
[[nodiscard]] std::string_view ffmpeg_pixel_format(PixelFormat format) noexcept;
/// FFmpeg's name of the format of a file of compressed frames one after another (`ffplay -f`); empty where it reads
/// none.
[[nodiscard]] std::string_view ffmpeg_container(PixelFormat format) noexcept;

/// A frame of @p size as it lies in the file: planes one after another, rows without padding. @p format: one that the
/// table knows, not opaque.
[[nodiscard]] Result<Layout> frame_layout(PixelFormat format, Size size) noexcept;

/// The JSON beside the file. @p path: of the file. @p frames: nothing while it is not known.
[[nodiscard]] std::string description(const std::string& path, const StreamConfig& stream, Size size,
                                      std::optional<std::uint64_t> frames);

}  // namespace dmaflow::raw_file
