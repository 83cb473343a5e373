// Raw video files: the layout of the frames in them, and the JSON beside them that describes it.
#pragma once

#include <dmaflow/device.hpp>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace dmaflow::raw_file {

/// FFmpeg's name for the pixel format with the same bytes (`ffplay -pixel_format`); empty if it has none.
[[nodiscard]] std::string_view ffmpeg_pixel_format(PixelFormat format) noexcept;
/// FFmpeg's name for the format of a file of consecutive compressed frames (`ffplay -f`); empty if it reads no such
/// file.
[[nodiscard]] std::string_view ffmpeg_container(PixelFormat format) noexcept;

/// The layout of a frame of @p size in the file: planes one after another, rows without padding. @p format: one in the
/// table, not opaque.
[[nodiscard]] Result<Layout> frame_layout(PixelFormat format, Size size) noexcept;

/// The JSON beside the file at @p path. @p frames: nullopt while the number is not known.
[[nodiscard]] std::string description(const std::string& path, const StreamConfig& stream, Size size,
                                      std::optional<std::uint64_t> frames);

}  // namespace dmaflow::raw_file
