"""The names that a layer has already. Imports no torch."""

ATTRIBUTES = frozenset(
    """
    add_module after_step apply arrived assigns b backward_passes batched beside bfloat16 bias bias_or_zeros buffers
    call_super_init check_follower check_frozen check_neurons check_parametrised check_pass check_sends
    check_transformed children classes clocked compile constraints count_passes counter cpu cuda dilation double
    downstream dphi draw_fresh draws drive driven due dump_patches embedding_dim end_pass enforce eval example_axes
    extra_repr family float follow followers for_senders forget_passes forward freeze from_pretrained get_buffer
    get_extra_state get_parameter get_submodule gradient_of groups half held hyperparameters in_channels in_features
    input_shape ipu joint joint_map keep kernel_size lacking learn linear linear_map listen_for_gradient
    load_state_dict max_norm modules moves mtia named_buffers named_children named_modules named_parameters
    needs_whole_batch network norm_type num_embeddings once optimizers out_channels out_features output_padding
    output_shape own_decay owner padding padding_idx padding_mode parameters parts passing path phi post_shape
    pre_shape program reached read_parameters reads_out reads_phi receive refuse_transforms register_backward_hook
    register_buffer register_forward_hook register_forward_pre_hook register_full_backward_hook
    register_full_backward_pre_hook register_load_state_dict_post_hook register_load_state_dict_pre_hook
    register_module register_parameter register_state_dict_post_hook register_state_dict_pre_hook requires_grad_
    reset_parameters rule ruledsl scale_grad_by_freq schedule sends set_extra_state set_submodule shape_of
    share_memory share_of sparse speak stages stands_beside start state_dict stored stride T_destination teaches to
    to_empty train training transposed type unlike unscaled W watch weight with_errors with_once without_errors xpu
    zero_grad
    """.split()  # noqa: SIM905
)
"""A tensor, parameter or phase of a rule takes an underscore instead. A test compares the list with torch."""
