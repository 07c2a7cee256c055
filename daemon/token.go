// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
	watchtools "k8s.io/client-go/tools/watch"
	bootstrapapi "k8s.io/cluster-bootstrap/token/api"

	"github.com/peapod/peapod/auth"
)

// Tokens are the bootstrap tokens of the cluster in a data folder, which has to
// be running.
type Tokens struct {
	client kubernetes.Interface
	ca     []byte
}

// OpenTokens reaches the cluster as its administrator.
func OpenTokens(dataDir string) (*Tokens, error) {
	l, err := newLayout(dataDir)
	if err != nil {
		return nil, err
	}
	config, err := clientcmd.BuildConfigFromFlags("", l.kubeconfig())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("no cluster has been started in %s", l.root)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot reach the cluster of %s: %w", l.root, err)
	}
	c, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("cannot reach the cluster of %s: %w", l.root, err)
	}
	return &Tokens{c, config.CAData}, nil
}

// Joining is what a machine has to be told to join.
type Joining struct{ Server, Token, CAHash string }

// Create makes a token that machines can join with for so long, 0 for ever. An
// empty one is chosen here.
func (t *Tokens) Create(ctx context.Context, token, description string, ttl time.Duration) (j Joining, err error) {
	if token == "" {
		if token, err = auth.NewBootstrapToken(); err != nil {
			return j, err
		}
	}
	expires := time.Time{}
	if ttl > 0 {
		expires = time.Now().Add(ttl)
	}
	secret, err := auth.BootstrapSecret(token, description, expires)
	if err != nil {
		return j, err
	}
	hashes, err := auth.Hashes(t.ca)
	if err != nil {
		return j, err
	}
	j = Joining{Token: token, CAHash: strings.Join(hashes, ",")}
	if j.Server, err = t.advertised(ctx); err != nil {
		return j, err
	}
	if err := t.prepare(ctx, j.Server); err != nil {
		return j, fmt.Errorf("cannot prepare the cluster for machines that join: %w", err)
	}
	if _, err := t.client.CoreV1().Secrets(secret.Namespace).Create(ctx, secret, metav1.CreateOptions{}); err != nil {
		return j, fmt.Errorf("cannot make the token: %w", err)
	}
	id, _, _ := strings.Cut(token, ".")
	if err := t.signed(ctx, id); err != nil {
		return j, fmt.Errorf("cannot see the token in use: %w", err)
	}
	return j, nil
}

// signing is how long the cluster may take to sign with a new token.
const signing = 30 * time.Second

// signed waits until the cluster has signed with a token what it says of itself:
// before that nobody can join with it.
func (t *Tokens) signed(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, signing)
	defer cancel()
	info := fields.OneTermEqualSelector(metav1.ObjectNameField, bootstrapapi.ConfigMapClusterInfo)
	list := cache.NewListWatchFromClient(t.client.CoreV1().RESTClient(), "configmaps", metav1.NamespacePublic, info)
	_, err := watchtools.UntilWithSync(ctx, list, &corev1.ConfigMap{}, nil, func(e watch.Event) (bool, error) {
		m, ok := e.Object.(*corev1.ConfigMap)
		return ok && m.Data[bootstrapapi.JWSSignatureKeyPrefix+id] != "", nil
	})
	return err
}

// advertised is the URL by which other machines reach the API: what the Service
// kubernetes leads to, unless that is its own address.
func (t *Tokens) advertised(ctx context.Context) (string, error) {
	service, err := t.client.CoreV1().Services(metav1.NamespaceDefault).Get(ctx, "kubernetes", metav1.GetOptions{})
	if err != nil {
		return "", fmt.Errorf("cannot find out where the API server is: %w", err)
	}
	slice, err := t.client.DiscoveryV1().EndpointSlices(metav1.NamespaceDefault).Get(ctx, "kubernetes", metav1.GetOptions{})
	if err != nil {
		return "", fmt.Errorf("cannot find out where the API server is: %w", err)
	}
	for _, e := range slice.Endpoints {
		for _, a := range e.Addresses {
			address, err := netip.ParseAddr(a)
			if err == nil && a != service.Spec.ClusterIP && len(slice.Ports) > 0 && slice.Ports[0].Port != nil {
				return "https://" + netip.AddrPortFrom(address, uint16(*slice.Ports[0].Port)).String(), nil
			}
		}
	}
	return "", errors.New("no other machine reaches the API server: start the cluster with `peapod up --listen 0.0.0.0:6443`, or on an address of this machine's")
}

// prepare makes what every token needs: what the cluster says of itself, and
// who may read it and ask for a node's certificate.
func (t *Tokens) prepare(ctx context.Context, server string) error {
	info, err := auth.ClusterInfo(server, t.ca)
	if err != nil {
		return err
	}
	bindings, reader, readers := auth.JoinPolicy()
	for i := range bindings {
		if _, err := t.client.RbacV1().ClusterRoleBindings().Create(ctx, &bindings[i], metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
			return err
		}
	}
	if _, err := t.client.RbacV1().Roles(reader.Namespace).Create(ctx, reader, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		return err
	}
	if _, err := t.client.RbacV1().RoleBindings(readers.Namespace).Create(ctx, readers, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		return err
	}
	infos := t.client.CoreV1().ConfigMaps(info.Namespace)
	if _, err := infos.Create(ctx, info, metav1.CreateOptions{}); !apierrors.IsAlreadyExists(err) {
		return err
	}
	have, err := infos.Get(ctx, info.Name, metav1.GetOptions{})
	if err != nil || have.Data[bootstrapapi.KubeConfigKey] == info.Data[bootstrapapi.KubeConfigKey] {
		return err
	}
	have.Data[bootstrapapi.KubeConfigKey] = info.Data[bootstrapapi.KubeConfigKey]
	_, err = infos.Update(ctx, have, metav1.UpdateOptions{})
	return err
}

// Token is one as it is listed.
type Token struct {
	Token, Description string
	Expires            time.Time // zero: never
	Usages, Groups     []string
}

// List are the tokens there are, by their IDs.
func (t *Tokens) List(ctx context.Context) ([]Token, error) {
	found, err := t.client.CoreV1().Secrets(metav1.NamespaceSystem).List(ctx, metav1.ListOptions{
		FieldSelector: fields.OneTermEqualSelector("type", string(bootstrapapi.SecretTypeBootstrapToken)).String(),
	})
	if err != nil {
		return nil, fmt.Errorf("cannot list the tokens: %w", err)
	}
	var out []Token
	for i := range found.Items {
		out = append(out, tokenOf(&found.Items[i]))
	}
	slices.SortFunc(out, func(a, b Token) int { return cmp.Compare(a.Token, b.Token) })
	return out, nil
}

func tokenOf(s *corev1.Secret) Token {
	text := func(key string) string { return string(s.Data[key]) }
	out := Token{Token: text(bootstrapapi.BootstrapTokenIDKey) + "." + text(bootstrapapi.BootstrapTokenSecretKey), Description: text(bootstrapapi.BootstrapTokenDescriptionKey)}
	if at, err := time.Parse(time.RFC3339, text(bootstrapapi.BootstrapTokenExpirationKey)); err == nil {
		out.Expires = at
	}
	for _, u := range slices.Backward(bootstrapapi.KnownTokenUsages) {
		if text(bootstrapapi.BootstrapTokenUsagePrefix+u) == "true" {
			out.Usages = append(out.Usages, u)
		}
	}
	if g := text(bootstrapapi.BootstrapTokenExtraGroupsKey); g != "" {
		out.Groups = strings.Split(g, ",")
	}
	return out
}

// Delete removes a token, by itself or by its ID.
func (t *Tokens) Delete(ctx context.Context, token string) error {
	id, _, _ := strings.Cut(token, ".")
	if err := t.client.CoreV1().Secrets(metav1.NamespaceSystem).Delete(ctx, bootstrapapi.BootstrapTokenSecretPrefix+id, metav1.DeleteOptions{}); err != nil {
		return fmt.Errorf("cannot delete the token %s: %w", id, err)
	}
	return nil
}
